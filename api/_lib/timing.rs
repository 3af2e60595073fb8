//! `Server-Timing`: how long each step of a call took, the backend's own steps included (W3C Server Timing).

use std::fmt::Write;
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::problem::holds_part_of;
use crate::token::Token;

const NAME: HeaderName = HeaderName::from_static("server-timing");
/// What this end measures itself.
const STEPS: [&str; 3] = ["token", "exchange", "backend"];
/// The most of the backend's entries that is carried through.
const MAX_CARRIED_BYTES: usize = 1024;

/// The header's value, as it grows.
#[derive(Default)]
pub(crate) struct Timing(String);

impl Timing {
    /// Adds a step that began then and ends now.
    pub(crate) fn add(&mut self, name: &str, started: Instant) {
        let separator = if self.0.is_empty() { "" } else { ", " };
        let micros = started.elapsed().as_micros() as u64;
        // Writing to a string can't fail.
        let _ = write!(self.0, "{separator}{name};dur={}.{:03}", micros / 1000, micros % 1000);
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
                let name = entry.split([';', ' ']).next().unwrap_or_default();
                if STEPS.iter().all(|step| !step.eq_ignore_ascii_case(name)) && entry.len() <= room {
                    room -= entry.len();
                    self.0.push_str(", ");
                    self.0.push_str(entry);
                }
            }
        }
    }

    pub(crate) fn write_to(self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.0)
            && !value.is_empty()
        {
            headers.insert(NAME, value);
        }
    }
}
