//! `cargo run`: the whole flow on your machine, with no account and no network.
//!
//! It starts the issuer, the backend and the caller ([`stage`]), makes one call that is accepted and one that is
//! refused, tells what happened ([`story`]), and serves the caller's page until Ctrl-C. `cargo run -- --once` leaves
//! after the two calls. Of the environment it reads `NO_COLOR` and `TERM`, and nothing that configures either end.

mod proxy;
mod stage;
mod story;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use stage::{Stage, listen_on_localhost, loopback};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: cargo run [-- --once]

  (nothing)  make the two calls, then serve the page until Ctrl-C
  --once     make the two calls, and exit with 0 if they went as they should
";

/// Where people expect a page in development.
const PAGE_PORT: u16 = 3000;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let once = match arguments.as_slice() {
        [] => false,
        [argument] if argument == "--once" => true,
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(once).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("error: the first call should have been accepted, and the second refused");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether the backend accepted the first call and refused the second.
async fn run(once: bool) -> io::Result<bool> {
    let listeners = if once { vec![loopback(0).await?] } else { listen_on_localhost(PAGE_PORT).await? };
    let port = listeners[0].local_addr()?.port();
    let stage = Stage::set(listeners).await?;

    let accepted = stage.call(None).await?;
    let refused = stage.call(Some("other-environment")).await?;
    // Heard from before the page is announced, so that no Ctrl-C after that ends this as a failure.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut out = io::stdout().lock();
    out.write_all(story::tell(&stage, &accepted, &refused, has_colour()).as_bytes())?;

    if !once {
        if port != PAGE_PORT {
            writeln!(out, "Port {PAGE_PORT} is taken, so this is on {port}.")?;
        }
        writeln!(out, "Now try it yourself: http://localhost:{port} (Ctrl-C stops it)")?;
        drop(out);
        interrupt.recv().await;
    }
    Ok(accepted.is_accepted() && refused.is_forbidden())
}

/// Colour is for people: not for a pipe, nor for who has asked for none (<https://no-color.org>).
fn has_colour() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
