//! `Server-Timing`: how long each step of a call took, the backend's own steps included (W3C Server Timing).

use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::problem::holds_part_of;
use crate::token::Token;

const NAME: HeaderName = HeaderName::from_static("server-timing");
/// What this end measures itself.
const STEPS: [&str; 3] = ["token", "exchange", "backend"];
/// The most of the backend's entries that is carried through.
const MAX_CARRIED_BYTES: usize = 1024;

/// The header's value, as it grows. Each step begins where the one before has ended, so that no time is left out.
pub(crate) struct Timing {
    value: Vec<u8>,
    step_began: Instant,
}

impl Timing {
    /// Begins the first step.
    pub(crate) fn start() -> Self {
        // Room for what most calls have to tell.
        Self { value: Vec::with_capacity(128), step_began: Instant::now() }
    }

    /// Adds the step that ends now.
    pub(crate) fn add(&mut self, name: &str) {
        let now = Instant::now();
        let micros = (now - self.step_began).as_micros();
        self.step_began = now;
        self.push(name);
        self.value.extend(b";dur=");
        // Into memory, writing can't fail.
        let _ = serde_json::to_writer(&mut self.value, &(micros as f64 / 1000.0));
    }

    fn push(&mut self, entry: &str) {
        if !self.value.is_empty() {
            self.value.extend(b", ");
        }
        self.value.extend(entry.as_bytes());
    }

    /// Carries the backend's own entries through, if they are well formed, short, without any part of the token, and
    /// don't pass for one of this end's steps.
    pub(crate) fn carry(&mut self, headers: &HeaderMap, token: &Token) {
        let mut room = MAX_CARRIED_BYTES;
        for value in headers.get_all(NAME).iter().filter_map(|value| value.to_str().ok()) {
            // An open quote would swallow what follows it.
            if value.contains('\\') || value.matches('"').count() % 2 != 0 || holds_part_of(value, token) {
                continue;
            }
            let mut quoted = false;
            let entries = value.split(|c| {
                quoted ^= c == '"';
                c == ',' && !quoted
            });
            for entry in entries.map(str::trim).filter(|entry| !entry.is_empty()) {
                let name = entry.split(';').next().unwrap_or_default().trim();
                let is_step = STEPS.iter().any(|step| step.eq_ignore_ascii_case(name));
                if is_name(name) && !is_step && entry.len() <= room {
                    room -= entry.len();
                    self.push(entry);
                }
            }
        }
    }

    pub(crate) fn write_to(self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::try_from(self.value)
            && !value.is_empty()
        {
            headers.insert(NAME, value);
        }
    }
}

/// A token as HTTP has it (RFC 9110, section 5.6.2).
fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}
