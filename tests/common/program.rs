//! The real binary, with nothing of this process' environment.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tokio::sync::watch;

use super::FakeIssuer;

/// A running backend, and all that it has printed. It ends with its owner.
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    child: Child,
    output: watch::Receiver<String>,
}

impl Program {
    /// Starts it with the settings that trust this issuer's tokens, and these.
    pub(crate) async fn start(issuer: &FakeIssuer, more: &[(&str, &str)]) -> Self {
        let mut command = trusting(issuer, command());
        command.envs(more.iter().copied());
        Self::spawn(command).await
    }

    /// Waits until it says where it listens, so `RUST_LOG` must let it.
    pub(crate) async fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = watch::Sender::new(String::new());
        let mut printed = output.subscribe();
        gather(child.stdout.take().unwrap(), output.clone());
        gather(child.stderr.take().unwrap(), output);
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

    /// Waits until it has printed this.
    pub(crate) async fn prints(&mut self, text: &str) {
        drop(self.output.wait_for(|output| output.contains(text)).await.unwrap());
    }

    pub(crate) fn output(&self) -> String {
        self.output.borrow().clone()
    }

    /// The process' id, as a command takes it.
    pub(crate) fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// Sends `TERM`, `INT` or the like.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.id()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end; returns its exit code and all that it has printed.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        // Each reader holds a sender until its stream ends.
        while self.output.changed().await.is_ok() {}
        let code = self.child.wait().unwrap().code();
        (code, self.output())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
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

/// With the settings that trust this issuer's tokens.
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

fn gather(mut stream: impl Read + Send + 'static, output: watch::Sender<String>) {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut bytes) {
            output.send_modify(|text| text.push_str(&String::from_utf8_lossy(&bytes[..length])));
        }
    });
}
