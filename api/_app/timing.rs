//! `Server-Timing`: how long each step of a call took (W3C Server Timing).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};

const NAME: HeaderName = HeaderName::from_static("server-timing");

/// The header's value, as it grows. Each step begins when the one before has ended, so that no time is left out.
pub(crate) struct Timing {
    value: String,
    step_began: Instant,
}

impl Timing {
    /// Begins the first step.
    pub(crate) fn start() -> Self {
        Self { value: String::new(), step_began: Instant::now() }
    }

    /// Adds the step that ends now.
    pub(crate) fn add(&mut self, name: &str) {
        let now = Instant::now();
        let milliseconds = milliseconds(now - self.step_began);
        self.step_began = now;
        self.push(&format!("{name};dur={milliseconds}"));
    }

    /// Adds the step that ends now, with a description of one word.
    pub(crate) fn add_with_description(&mut self, name: &str, description: &str) {
        self.add(name);
        let _ = write!(self.value, ";desc={description}");
    }

    /// Adds the time that the backend took to verify the token, if the backend reported a number.
    pub(crate) fn add_verify_of(&mut self, headers: &HeaderMap) {
        let mut values = headers.get_all(NAME).iter().filter_map(|value| value.to_str().ok());
        if let Some(milliseconds) = values.find_map(|value| value.split(',').find_map(verify)) {
            self.push(&format!("verify;dur={milliseconds}"));
        }
    }

    fn push(&mut self, entry: &str) {
        if !self.value.is_empty() {
            self.value.push_str(", ");
        }
        self.value.push_str(entry);
    }

    pub(crate) fn write_to(self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::try_from(self.value)
            && !value.is_empty()
        {
            headers.insert(NAME, value);
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// The duration of an entry `verify`, if it is a number that can be one.
fn verify(entry: &str) -> Option<f64> {
    let mut parts = entry.split(';').map(str::trim);
    if parts.next() != Some("verify") {
        return None;
    }
    let number = parts.find_map(|part| part.strip_prefix("dur="))?;
    // No more than a day, in case the number is none of milliseconds. This also excludes infinity.
    number.parse::<f64>().ok().filter(|milliseconds| (0.0..86_400_000.0).contains(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_of_verify_is_carried() {
        for (value, expected) in [
            ("verify;dur=0.21", Some(0.21)),
            ("db;dur=1, verify;dur=2;desc=cached", Some(2.0)),
            ("verify;desc=\"a\";dur=3", Some(3.0)),
            ("verify", None),
            ("verify;dur=", None),
            ("verify;dur=\"4\"", None),
            ("verify;dur=soon", None),
            ("verify;dur=-1", None),
            ("verify;dur=inf", None),
            ("verify;dur=NaN", None),
            ("verify;dur=1e300", None),
            ("verifying;dur=5", None),
            ("token;dur=6", None),
        ] {
            let carried = value.split(',').map(str::trim).find_map(verify);
            assert_eq!(carried, expected, "{value}");
        }
    }
}
