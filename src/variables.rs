//! Environment variables, read so that every problem is told at once.
//!
//! A value that can't be read is a problem and never counts as unset. Which variables there are, and what they mean, is
//! [`settings`](crate::settings)' matter.

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

/// All that is wrong with the settings: a line each, which begins with the variable's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// A source of variables, and what was found wrong with them.
pub(crate) struct Variables<F> {
    variable: F,
    problems: Vec<String>,
}

impl<V: Into<OsString>, F: Fn(&str) -> Option<V>> Variables<F> {
    /// Reads from this function, such as [`std::env::var_os`].
    pub(crate) fn new(variable: F) -> Self {
        Self { variable, problems: Vec::new() }
    }

    /// Whether nothing was found wrong so far.
    pub(crate) fn are_right(&self) -> bool {
        self.problems.is_empty()
    }

    /// What was found wrong.
    pub(crate) fn into_problems(self) -> Problems {
        Problems(self.problems)
    }

    /// The variable's value. Blank counts as unset; one that can't be read counts as set, to something.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let text = (self.variable)(name)?.into().into_string().unwrap_or_else(|text| {
            self.problem(name, "is not valid UTF-8");
            text.to_string_lossy().into_owned()
        });
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    pub(crate) fn problem(&mut self, name: &str, problem: impl fmt::Display) {
        // The first says it all: a variable may be read more than once, and what is wrong with it in one way is so in
        // others.
        let name = format!("{name}: ");
        if !self.problems.iter().any(|known| known.starts_with(&name)) {
            self.problems.push(format!("{name}{problem}"));
        }
    }

    pub(crate) fn parsed<T>(&mut self, name: &str, default: T, expected: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let Some(text) = self.text(name) else {
            return default;
        };
        parse(&text).unwrap_or_else(|| {
            // Enough to recognise a slip of the pen by, too little to print a secret that went to the wrong variable.
            let start: String = text.chars().take(24).flat_map(char::escape_debug).collect();
            self.problem(name, format_args!("`{start}` is not {expected}"));
            default
        })
    }

    pub(crate) fn list(&mut self, name: &str) -> Option<Vec<String>> {
        let text = self.text(name)?;
        let values: Vec<_> =
            text.split(',').map(str::trim).filter(|value| !value.is_empty()).map(String::from).collect();
        if values.is_empty() {
            self.problem(name, "holds nothing but commas: list at least one value, or unset it");
        }
        Some(values)
    }

    /// A URL that a key or a token may come from.
    pub(crate) fn url(&mut self, name: &str) -> Option<String> {
        let text = self.text(name)?;
        if !Url::parse(&text).is_ok_and(|url| is_allowed(&url)) {
            self.problem(
                name,
                "must be an https URL without user or fragment (plain http only to 127.0.0.0/8, [::1] or localhost)",
            );
        }
        Some(text)
    }
}

fn is_allowed(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    is_bare && (url.scheme() == "https" || url.scheme() == "http" && is_loopback)
}
