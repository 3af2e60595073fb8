//! `cargo run`: the whole flow on your machine, with no account and no network.
//!
//! It starts the issuer, two backends and the caller ([`stage`]). It makes three calls: as a default deployment does,
//! with an exchanged token, and with a token that is refused. It shows what happened ([`story`]), and serves the
//! caller's page until Ctrl-C. `cargo run -- --once` exits after the calls. The variables that configure the two ends
//! have no effect here.

mod proxy;
mod stage;
mod story;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use stage::{Stage, listen_on_localhost, loopback};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: cargo run [-- --once]

  (nothing)  make three calls, then serve the page until Ctrl-C
  --once     make three calls, and exit with 0 if two were accepted and the last was refused
";

/// The usual port of a page in development.
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
    // From here on, Ctrl-C is a normal end, because the user has seen the calls.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut out = io::stdout().lock();
    out.write_all(story::tell(&stage, [&accepted, &exchanged, &refused], has_colour()).as_bytes())?;

    if !once {
        if port != PAGE_PORT {
            writeln!(out, "Port {PAGE_PORT} is in use, so the page is on port {port}.")?;
        }
        writeln!(out, "Try it in your browser: http://localhost:{port} (Ctrl-C stops it)")?;
        drop(out);
        interrupt.recv().await;
    }
    Ok(accepted.is_accepted() && exchanged.is_accepted() && refused.is_forbidden())
}

/// Whether to use colour: only in a terminal, and not if `NO_COLOR` is set (<https://no-color.org>).
fn has_colour() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
