//! The log: one line per event on standard output, written by a separate thread.
//!
//! Nothing in the process waits for the reader of the log. If a terminal is stopped with Ctrl-S or a pipe is blocked,
//! up to 4096 lines wait. Further lines are dropped and counted, and the log says later how many.

use std::fmt::Display;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tracing::Dispatch;
use tracing::dispatcher;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use super::json_lines::JsonLines;
use crate::settings::LogFormat;

/// Enough for a few seconds of a flood of refusals. It takes a few megabytes.
const QUEUE_LINES: usize = 4096;
/// How long the end of the process waits for a reader.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often dropped lines are reported while the log is behind.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// A panic's message can hold anything.
const MAX_PANIC_CHARS: usize = 500;

/// The running log.
pub struct Log(WorkerGuard);

/// Starts the log. From then on, panics are logged.
pub fn start(format: LogFormat, filter: Targets) -> Log {
    let dropped = Arc::new(OnceLock::new());
    let writer = Writer { format, dropped: dropped.clone(), reported: 0, reported_at: None };
    let (lines, guard) = NonBlockingBuilder::default().buffered_lines_limit(QUEUE_LINES).finish(writer);
    // Neither call fails, because each value is set only here.
    let _ = dropped.set(lines.error_counter());
    let _ = dispatcher::set_global_default(dispatch(format, filter, lines));
    std::panic::set_hook(Box::new(log_panic));
    Log(guard)
}

impl Log {
    /// Writes the waiting lines, and stops after 1 s.
    pub fn finish(self) {
        // The guard prints if the queue is full, so dropping it can block for as long as the log does.
        with_timeout(move || drop(self.0));
    }
}

/// Writes to standard error, which can be the same stopped terminal.
pub fn print_error(problem: &dyn Display) {
    let line = format!("{problem}\n");
    with_timeout(move || {
        // `eprintln!` would panic if standard error is closed.
        let _ = io::stderr().write_all(line.as_bytes());
    });
}

/// Runs this on a separate thread, and waits for at most [`FLUSH_TIMEOUT`].
fn with_timeout(work: impl FnOnce() + Send + 'static) {
    let (done, finished) = mpsc::channel();
    let thread = thread::Builder::new().spawn(move || {
        work();
        let _ = done.send(());
    });
    if thread.is_ok() {
        let _ = finished.recv_timeout(FLUSH_TIMEOUT);
    }
}

pub(crate) fn dispatch(
    format: LogFormat,
    filter: Targets,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
) -> Dispatch {
    let log = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => {
            // The layer's internal errors would go to standard error, and could block there.
            let lines = tracing_subscriber::fmt::layer().with_ansi(false).log_internal_errors(false);
            log.with(lines.with_writer(writer)).into()
        }
        LogFormat::Json => log.with(JsonLines(writer)).into(),
    }
}

/// Logs a panic. The default hook writes to standard error and can block there.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let message: String = message.unwrap_or_default().chars().take(MAX_PANIC_CHARS).collect();
    tracing::error!(location = panic.location().map(tracing::field::display), message_of_panic = message, "panicked");
}

/// Standard output, as the log's thread sees it.
struct Writer {
    format: LogFormat,
    dropped: Arc<OnceLock<ErrorCounter>>,
    reported: usize,
    reported_at: Option<Instant>,
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stdout().write_all(line)?;
        if self.reported_at.is_none_or(|last| last.elapsed() >= REPORT_INTERVAL) {
            self.report_dropped();
        }
        Ok(line.len())
    }

    /// Called each time that no line is waiting.
    fn flush(&mut self) -> io::Result<()> {
        self.report_dropped();
        io::stdout().flush()
    }
}

impl Writer {
    /// Writes the report without the queue, because a full queue would drop the report, too.
    fn report_dropped(&mut self) {
        let dropped = self.dropped.get().map_or(0, ErrorCounter::dropped_lines);
        let lines = dropped - self.reported;
        if lines == 0 {
            return;
        }
        (self.reported, self.reported_at) = (dropped, Some(Instant::now()));
        let direct = dispatch(self.format, Targets::new().with_default(LevelFilter::WARN), io::stdout);
        dispatcher::with_default(&direct, || tracing::warn!(lines, "log lines were dropped: nothing read the log"));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and one panics to be logged")]

    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_panic_is_a_line_of_the_log() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let writer = Mutex::new(file.reopen().unwrap());
        let log = dispatch(LogFormat::Text, Targets::new().with_default(LevelFilter::INFO), writer);
        std::panic::set_hook(Box::new(log_panic));
        for message in ["a defect\nwith a second line", &"x".repeat(1000)] {
            let panicked = dispatcher::with_default(&log, || std::panic::catch_unwind(|| panic!("{message}")));
            assert!(panicked.is_err());
        }
        drop(std::panic::take_hook());
        let text = std::fs::read_to_string(file.path()).unwrap();
        let [first, second] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert!(first.contains("ERROR") && first.contains("panicked location=src/server/log.rs:"), "{first}");
        assert!(first.ends_with(r#"message_of_panic="a defect\nwith a second line""#), "{first}");
        assert!(second.contains(&"x".repeat(500)) && !second.contains(&"x".repeat(501)), "{second}");
    }

    #[test]
    fn waits_for_a_blocked_reader_no_longer_than_its_limit() {
        let (_unblock, blocked) = mpsc::channel::<()>();
        let began = Instant::now();
        with_timeout(move || {
            let _ = blocked.recv();
        });
        assert!((FLUSH_TIMEOUT..FLUSH_TIMEOUT * 5).contains(&began.elapsed()));
    }
}
