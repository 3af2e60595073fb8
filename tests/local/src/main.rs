//! `cargo run`: the whole flow on your machine, with no account and no network.
//!
//! It starts the issuer, two backends and the caller ([`stage`]), makes a call as a default deployment does, one with an
//! exchanged token and one that is refused, shows what happened ([`story`]), and serves the caller's page until Ctrl-C.
//! `cargo run -- --once` exits after the calls. It reads `NO_COLOR` and `TERM` from the environment, and nothing that
//! configures either end.

mod proxy;
mod stage;
mod story;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use stage::{Stage, listen_on_localhost, loopback};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: cargo run [-- --once]

  (nothing)  make three calls, then serve the page until Ctrl-C
  --once     make three calls, and exit with 0 if two were accepted and the last one refused
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
            eprintln!("error: the first two calls should have been accepted, and the third refused");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether the backends accepted the first two calls and refused the third.
async fn run(once: bool) -> io::Result<bool> {
    let listeners = if once { vec![loopback(0).await?] } else { listen_on_localhost(PAGE_PORT).await? };
    let port = listeners[0].local_addr()?.port();
    let stage = Stage::start(listeners).await?;

    let accepted = stage.call("").await?;
    let exchanged = stage.call("exchanged").await?;
    let refused = stage.call("other-environment").await?;
    // From here on Ctrl-C is a success, because the next line announces the page.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut out = io::stdout().lock();
    out.write_all(story::tell(&stage, [&accepted, &exchanged, &refused], has_colour()).as_bytes())?;

    if !once {
        if port != PAGE_PORT {
            writeln!(out, "Port {PAGE_PORT} is taken, so this is on {port}.")?;
        }
        writeln!(out, "Now try it yourself: http://localhost:{port} (Ctrl-C stops it)")?;
        drop(out);
        interrupt.recv().await;
    }
    Ok(accepted.is_accepted() && exchanged.is_accepted() && refused.is_forbidden())
}

/// A pipe gets no colour, nor does a person who has asked for none (<https://no-color.org>).
fn has_colour() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
