//! The backend's binary: settings, log, listener, signals; all else is in the library.

use std::io::{self, Write};

use backend::settings::{LogFormat, Settings};
use tokio::net::TcpListener;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Exit codes: 0 after a stop that was asked for, 1 where the system refuses something, 2 where a setting must be
/// changed.
#[tokio::main]
async fn main() {
    let code = match Settings::read(|name| std::env::var_os(name)) {
        Ok(settings) => {
            log_to_stdout(settings.log_format, settings.log_filter.clone());
            serve(settings).await.inspect_err(|error| complain(error)).map_or(1, |()| 0)
        }
        Err(problems) => {
            complain(&problems);
            2
        }
    };
    // The end of `main` would wait for a name resolver that doesn't answer: half a minute, and nothing interrupts it.
    std::process::exit(code)
}

async fn serve(settings: Settings) -> io::Result<()> {
    let Settings { host, port, .. } = &settings;
    let listener = TcpListener::bind((host.as_str(), *port)).await.map_err(|error| {
        io::Error::new(error.kind(), format!("HOST, PORT: can't listen at `{host}`, port {port}: {error}"))
    })?;
    let stop = stop_signal()?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    backend::run(listener, settings, async {
        stop.await;
        tracing::info!("stopping: no new connections, finishing what is in flight");
    })
    .await
}

/// Ends when someone asks the process to stop. Listens from the call on, so that no signal after it goes unheard.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Ends when someone asks the process to stop.
#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}

fn log_to_stdout(format: LogFormat, filter: Targets) {
    let lines = tracing_subscriber::fmt::layer().with_ansi(false);
    let log = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => log.with(lines).init(),
        LogFormat::Json => log.with(lines.json().flatten_event(true)).init(),
    }
}

/// A closed standard error is no reason to panic, as `eprintln!` would.
fn complain(problem: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{problem}");
}
