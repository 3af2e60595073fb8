//! The real binary, without the environment of the test's process.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tokio::sync::watch;

use super::FakeIssuer;

/// A running backend and its output. Dropping it kills the process.
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    child: Child,
    output: watch::Receiver<String>,
}

impl Program {
    /// Starts a backend that trusts this issuer's tokens, with more settings.
    pub(crate) async fn start(issuer: &FakeIssuer, more: &[(&str, &str)]) -> Self {
        let mut command = trusting(issuer, command());
        command.envs(more.iter().copied());
        Self::spawn(command).await
    }

    /// Starts a backend, and waits until its log has its address. `RUST_LOG` must not filter that line.
    pub(crate) async fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = watch::Sender::new(String::new());
        let mut printed = output.subscribe();
        collect_output(child.stdout.take().unwrap(), output.clone());
        collect_output(child.stderr.take().unwrap(), output);
        let address = |text: &str| {
            let line = text.lines().find(|line| line.contains("listening"))?;
            let address = line.split("127.0.0.1:").nth(1)?;
            let port: String = address.chars().take_while(char::is_ascii_digit).collect();
            Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?)))
        };
        let started = printed.wait_for(|text| text.ends_with('\n') && address(text).is_some()).await;
        let address = address(&started.unwrap()).unwrap();
        Self { address, child, output: printed }
    }

    /// Waits until this text is in its output.
    pub(crate) async fn prints(&mut self, text: &str) {
        drop(self.output.wait_for(|output| output.contains(text)).await.unwrap());
    }

    pub(crate) fn output(&self) -> String {
        self.output.borrow().clone()
    }

    /// The process's id, as the argument of a command.
    pub(crate) fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// Sends `TERM`, `INT` or the like.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.id()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end, and returns its exit code and its output.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        // Each reader holds a sender until its stream ends.
        while self.output.changed().await.is_ok() {}
        let code = self.child.wait().unwrap().code();
        (code, self.output())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // An error means that it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary, with an empty environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backend"));
    command.env_clear();
    command
}

/// Adds the settings that make the backend trust this issuer's tokens.
pub(crate) fn trusting(issuer: &FakeIssuer, mut command: Command) -> Command {
    command.envs([
        ("OIDC_TEAM_SLUG", "acme"),
        ("OIDC_PROJECT_NAME", "storefront"),
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
    ]);
    command.env("OIDC_JWKS_URL", issuer.url());
    command
}

fn collect_output(mut stream: impl Read + Send + 'static, output: watch::Sender<String>) {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut bytes) {
            output.send_modify(|text| text.push_str(&String::from_utf8_lossy(&bytes[..length])));
        }
    });
}
