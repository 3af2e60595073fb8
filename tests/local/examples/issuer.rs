//! The local issuer alone, for programs that run outside this process, as `vercel dev` does.
//!
//! `cargo run -p local --example issuer`: the first line printed is the issuer's URL in team mode, to be the backend's `OIDC_ISSUER`.
//! Then each line typed names an environment, and is answered with a token for it, good for the default
//! [`Deployment`]. It stops at the end of its input, and its key is gone.

use std::io;
use std::net::Ipv4Addr;

use local::{Deployment, Issuer};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> io::Result<()> {
    let deployment = Deployment::default();
    let issuer = Issuer::start(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?)?;
    println!("{}", issuer.team_url(&deployment.team));
    // Reading blocks this thread alone: the runtime's others serve the issuer.
    for environment in io::stdin().lines() {
        println!("{}", issuer.token(&deployment.in_environment(environment?.trim())));
    }
    Ok(())
}
