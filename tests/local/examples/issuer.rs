//! The local issuer alone, for programs outside this process, such as `vercel dev`.
//!
//! `cargo run -p local --example issuer` prints the issuer's URL in team mode, to be the backend's `OIDC_ISSUER`. Each line
//! that you type then names an environment, and it prints a token for this environment of the default [`Deployment`]. It
//! exits at the end of its input, and its key is gone.

use std::io;
use std::net::Ipv4Addr;

use local::{Deployment, Issuer};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> io::Result<()> {
    let deployment = Deployment::default();
    let issuer = Issuer::start(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?)?;
    println!("{}", issuer.team_url(&deployment.team));
    // Reading blocks this thread only: the runtime's other threads serve the issuer.
    for environment in io::stdin().lines() {
        println!("{}", issuer.token(&deployment.in_environment(environment?.trim())));
    }
    Ok(())
}
