//! The local issuer alone, for programs outside this process, such as `vercel dev`.
//!
//! `cargo run -p local --example issuer` prints the issuer's URL in team mode, the value for the backend's
//! `OIDC_ISSUER`. Type the name of an environment, and it prints a token of the default [`Deployment`] in this
//! environment. It exits at the end of its input, and its key is lost.

use std::io;
use std::net::Ipv4Addr;

use local::{Deployment, Issuer};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> io::Result<()> {
    let deployment = Deployment::default();
    let issuer = Issuer::start(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?)?;
    println!("{}", issuer.team_url(&deployment.team));
    // Reading blocks this thread only, because the runtime's other threads serve the issuer.
    for environment in io::stdin().lines() {
        println!("{}", issuer.token(&deployment.in_environment(environment?.trim())));
    }
    Ok(())
}
