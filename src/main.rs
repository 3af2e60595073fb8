//! The backend's binary: settings, log, listener, signals. Everything else is in the library.

use std::io;
use std::process::exit;

use backend::server::log;
use backend::settings::Settings;
use tokio::net::TcpListener;

/// Exit codes: 0 after a stop that was asked for, 1 if the system refuses something, 2 if a setting must be changed.
#[tokio::main]
async fn main() {
    let settings = Settings::read(|name| std::env::var_os(name)).unwrap_or_else(|error| {
        log::print_error(&error);
        exit(2)
    });
    let log = log::start(settings.log_format, settings.log_filter.clone());
    let served = serve(settings).await;
    log.finish();
    let code = served.inspect_err(|error| log::print_error(error)).map_or(1, |()| 0);
    // A return from `main` would wait up to half a minute for a DNS lookup that gets no answer.
    exit(code)
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
        tracing::info!("stopping: no new connections, finishing the requests in flight");
    })
    .await
}

/// Ends when the process is asked to stop. Signals count from the call on, also before the future is polled.
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

/// Ends when the process is asked to stop.
#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}
