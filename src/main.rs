//! The backend's binary: settings, log, listener, signals. Everything else is in the library.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::exit;
use std::thread::available_parallelism;

use backend::server::log;
use backend::settings::Settings;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

const HELP: &str = "\
A protected API that verifies Vercel OIDC tokens before it answers.

It takes no arguments. All settings are environment variables: see docs/settings.md and .env.example.

  -h, --help       print this help
  -V, --version    print the version
";

/// Exit codes: 0 after a stop that was asked for, 1 if the system refuses something, 2 if a setting must be changed.
fn main() {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    for argument in &arguments {
        match argument.to_str() {
            Some("-h" | "--help") => print_and_exit(HELP),
            Some("-V" | "--version") => print_and_exit(concat!("backend ", env!("CARGO_PKG_VERSION"), "\n")),
            _ => {}
        }
    }
    let settings = Settings::read(|name| std::env::var_os(name));
    let mut errors: Vec<_> = arguments.iter().map(unknown_argument).collect();
    errors.extend(settings.as_ref().err().map(ToString::to_string));
    let settings = match settings {
        Ok(settings) if errors.is_empty() => settings,
        _ => {
            log::print_error(&errors.join("\n"));
            exit(2)
        }
    };
    let log = log::start(settings.log_format, settings.log_filter.clone());
    let served = run(settings);
    log.finish();
    let code = served.inspect_err(|error| log::print_error(error)).map_or(1, |()| 0);
    // A return from `main` would wait up to half a minute for a DNS lookup that gets no answer.
    exit(code)
}

fn print_and_exit(text: &str) -> ! {
    // `print!` would panic if standard output is closed.
    let _ = io::stdout().write_all(text.as_bytes());
    exit(0)
}

fn unknown_argument(argument: &OsString) -> String {
    // Enough to recognise it, too little to print a secret.
    let start: String = argument.to_string_lossy().chars().take(24).flat_map(char::escape_debug).collect();
    format!("`{start}`: this argument is unknown. Settings are environment variables: see `--help`")
}

fn run(settings: Settings) -> io::Result<()> {
    // Without a number, tokio would read the variable again, which may be blank.
    let threads = settings.worker_threads.or_else(|| Some(available_parallelism().ok()?.get())).unwrap_or(1);
    let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let served = runtime.block_on(serve(settings));
    runtime.shutdown_background();
    served
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
