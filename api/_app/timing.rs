//! `Server-Timing`: how long each step of a call took (W3C Server Timing).

use std::fmt::{self, Write as _};
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue};

const NAME: HeaderName = HeaderName::from_static("server-timing");

/// The header's entries. Each step begins when the one before has ended, so that no time is left out.
pub(crate) struct Timing {
    value: String,
    step_began: Instant,
}

impl Timing {
    /// Begins the first step.
    pub(crate) fn start() -> Self {
        Self { value: String::with_capacity(128), step_began: Instant::now() }
    }

    /// Adds the step that ends now, with more parameters, such as `;desc=file`.
    pub(crate) fn add(&mut self, name: &str, parameters: impl fmt::Display) {
        let now = Instant::now();
        let microseconds = (now - self.step_began).as_micros() as u64;
        self.step_began = now;
        self.push(format_args!("{name};dur={}.{:03}{parameters}", microseconds / 1000, microseconds % 1000));
    }

    /// Adds the time that the backend took to verify the token, if it is known.
    pub(crate) fn add_verify(&mut self, milliseconds: Option<f64>) {
        if let Some(milliseconds) = milliseconds {
            self.push(format_args!("verify;dur={milliseconds}"));
        }
    }

    fn push(&mut self, entry: fmt::Arguments<'_>) {
        let separator = if self.value.is_empty() { "" } else { ", " };
        // Writing to a `String` never fails.
        let _ = write!(self.value, "{separator}{entry}");
    }

    pub(crate) fn write_to(self, headers: &mut HeaderMap) {
        if !self.value.is_empty()
            && let Ok(value) = HeaderValue::try_from(self.value)
        {
            headers.insert(NAME, value);
        }
    }
}

/// The time that the backend took to verify the token, if the backend reported a number.
pub(crate) fn verify_of(headers: &HeaderMap) -> Option<f64> {
    let values = headers.get_all(NAME).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).find_map(verify)
}

/// The duration of an entry `verify`, if it is a number that can be one.
fn verify(entry: &str) -> Option<f64> {
    let parameters = entry.trim().strip_prefix("verify;")?;
    let number = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("dur="))?;
    // At most a day, because a larger number is hardly a duration in milliseconds. This also excludes infinity.
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
