//! Reads environment variables, and collects every error, so that all errors are reported at once.
//!
//! A value that can't be read is an error and never counts as unset. Which variables there are and what they mean is in
//! [`settings`](crate::settings).

use std::ffi::OsString;
use std::fmt;

use vercel_oidc_verifier::KeySet;

/// Everything that is wrong with the settings. Each error is one line, which begins with the variable's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError(Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for SettingsError {}

/// A source of variables, and the errors found so far.
pub(crate) struct Variables<F> {
    variable: F,
    errors: Vec<String>,
}

const NOT_UTF8: &str = "is not valid UTF-8";

impl<V: Into<OsString>, F: Fn(&str) -> Option<V>> Variables<F> {
    /// Reads from this function, such as [`std::env::var_os`].
    pub(crate) fn new(variable: F) -> Self {
        Self { variable, errors: Vec::new() }
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    pub(crate) fn into_error(self) -> SettingsError {
        SettingsError(self.errors)
    }

    /// The variable's value, trimmed. A blank value counts as unset. A value that is not UTF-8 counts as set, so that it
    /// is reported instead of ignored.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let text = (self.variable)(name)?.into().into_string().unwrap_or_else(|text| {
            self.report(name, NOT_UTF8);
            text.to_string_lossy().into_owned()
        });
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Whether the variable has a value.
    pub(crate) fn is_set(&mut self, name: &str) -> bool {
        self.text(name).is_some()
    }

    pub(crate) fn report(&mut self, name: &str, error: impl fmt::Display) {
        // A variable may be read several times. If it is not UTF-8, other errors about it don't help.
        let (error, unreadable) = (format!("{name}: {error}"), format!("{name}: {NOT_UTF8}"));
        if !self.errors.iter().any(|known| *known == error || *known == unreadable) {
            self.errors.push(error);
        }
    }

    /// The variable's value, or the default if it is unset or wrong.
    pub(crate) fn parsed<T>(&mut self, name: &str, default: T, expected: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let Some(text) = self.text(name) else {
            return default;
        };
        parse(&text).unwrap_or_else(|| {
            // Enough to recognise a typing error, too little to print a secret that went to the wrong variable.
            let start: String = text.chars().take(24).flat_map(char::escape_debug).collect();
            self.report(name, format_args!("`{start}` is not {expected}"));
            default
        })
    }

    /// Comma-separated values.
    pub(crate) fn list(&mut self, name: &str) -> Option<Vec<String>> {
        let text = self.text(name)?;
        let values: Vec<_> =
            text.split(',').map(str::trim).filter(|value| !value.is_empty()).map(String::from).collect();
        if values.is_empty() {
            self.report(name, "has only commas: list at least one value, or unset it");
        }
        Some(values)
    }

    /// Comma-separated values that are compared with claims character by character.
    pub(crate) fn plain_list(&mut self, name: &str) -> Option<Vec<String>> {
        let values = self.list(name)?;
        self.require_plain(name, &values);
        Some(values)
    }

    /// Some tools keep the quotes or the comment of a line in an `.env` file (`docker --env-file`). The value would then
    /// equal no claim, and every caller would be refused. A `*` would be no pattern here.
    pub(crate) fn require_plain(&mut self, name: &str, values: &[String]) {
        const QUOTES: [char; 7] = ['"', '\'', '`', '\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}'];
        // Debug output escapes what can't be seen, such as a byte order mark.
        let is_invisible = |c: char| c != '\\' && c.escape_debug().len() > 1;
        let is_odd = |c: char| QUOTES.contains(&c) || c.is_whitespace() || is_invisible(c) || c == '#' || c == ';';
        if values.iter().any(|value| value.contains(is_odd)) {
            self.report(
                name,
                "has a quote, white space, `#`, `;` or a control or invisible character: set the plain value",
            );
        }
        if values.iter().any(|value| value.contains('*')) {
            self.report(name, "has a `*`, which is a pattern in OIDC_SUBJECT alone: set the plain value");
        }
    }

    /// A value that becomes a part of a subject. A `:` would move the parts after it.
    pub(crate) fn require_name(&mut self, name: &str, values: &[String]) {
        self.require_plain(name, values);
        if values.iter().any(|value| value.contains(':')) {
            self.report(name, "has a `:`: set the plain name, or OIDC_SUBJECT instead");
        }
    }

    /// The URL of an issuer or of its keys.
    pub(crate) fn url(&mut self, name: &str) -> Option<String> {
        let text = self.text(name)?;
        let is_odd = |c: char| c.is_whitespace() || c.is_control() || ['"', '\'', '\\'].contains(&c);
        if text.contains(is_odd) || KeySet::from_url(&text).is_err() {
            self.report(
                name,
                "must be an https URL (http only to 127.0.0.0/8, [::1] or localhost), without user or fragment",
            );
        }
        Some(text)
    }
}
