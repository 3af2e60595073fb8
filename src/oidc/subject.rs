//! An accepted subject, or a pattern with `*` that matches several.
//!
//! Pure comparisons of text.

use crate::error::TrustError;

/// An accepted `sub`. `*` matches one or more characters other than `:`.
///
/// A `*` never crosses a `:`, so a name that an attacker chooses can't fill two fields of a pattern.
///
/// ```
/// use vercel_oidc_verifier::Subject;
///
/// let any_preview = Subject::new("owner:acme:project:*:environment:preview");
/// assert!(any_preview.matches("owner:acme:project:shop:environment:preview"));
/// assert!(!any_preview.matches("owner:acme:project:shop:environment:production"));
/// assert!(!any_preview.matches("owner:acme:project:a:environment:x:environment:preview"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject(String);

impl Subject {
    /// Makes a subject of a pattern.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// Makes the `sub` of one project's tokens in one environment.
    ///
    /// # Errors
    ///
    /// A name is empty, or has a `*` or a `:`. Each of these would accept other subjects than the one that is meant.
    pub fn of(team: &str, project: &str, environment: &str) -> Result<Self, TrustError> {
        for (name, part) in [("team", team), ("project", project), ("environment", environment)] {
            require_name(name, part)?;
        }
        Ok(Self(format!("owner:{team}:project:{project}:environment:{environment}")))
    }

    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern has a `*`, so that it matches more than one subject.
    pub fn is_wildcard(&self) -> bool {
        self.0.contains('*')
    }

    /// Whether a token's `sub` matches.
    pub fn matches(&self, sub: &str) -> bool {
        if !self.is_wildcard() {
            return self.0 == sub;
        }
        let fields = self.0.split(':');
        fields.clone().count() == sub.split(':').count()
            && fields.zip(sub.split(':')).all(|(pattern, value)| field_matches(pattern, value))
    }
}

/// A name that is a part of a subject. A `:` would move the parts after it.
pub(crate) fn require_name(name: &'static str, part: &str) -> Result<(), TrustError> {
    require_plain(name, part)?;
    if part.contains(':') {
        return Err(TrustError { name, problem: "has a `:`: use its plain name" });
    }
    Ok(())
}

/// A value that is compared with a claim character by character. Someone who writes a `*` expects a pattern.
pub(crate) fn require_plain(name: &'static str, value: &str) -> Result<(), TrustError> {
    if value.is_empty() {
        return Err(TrustError { name, problem: "is empty" });
    }
    if value.contains('*') {
        return Err(TrustError {
            name,
            problem: "has a `*`, which is a pattern in a subject alone: use `Subject::new`",
        });
    }
    Ok(())
}

/// Takes time linear in the length of the value. Each literal is matched at its first place, which leaves the longest
/// rest for the next literal.
fn field_matches(pattern: &str, value: &str) -> bool {
    let mut literals = pattern.split('*');
    let Some(mut rest) = literals.next().and_then(|first| value.strip_prefix(first)) else {
        return false;
    };
    let mut literals = literals.peekable();
    while let Some(literal) = literals.next() {
        let mut after_star = rest.chars();
        if after_star.next().is_none() {
            return false;
        }
        rest = after_star.as_str();
        if literals.peek().is_none() {
            return rest.ends_with(literal);
        }
        let Some((_, after_literal)) = rest.split_once(literal) else {
            return false;
        };
        rest = after_literal;
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_star_matches_one_or_more_characters_but_no_colon() {
        for (pattern, sub, matches) in [
            ("a:*:c", "a:b:c", true),
            ("a:*:c", "a:é🦀:c", true),
            ("a:*:c", "a::c", false),
            ("a:*:c", "a:b:b:c", false),
            ("*", "a", true),
            ("*", "", false),
            ("*", "a:b", false),
            ("web-*", "web-", false),
            ("web-*-*", "web-a-b-c", true),
            ("web-*-x", "web-x-x", true),
            ("web-*-x", "web--x", false),
            ("**", "a", false),
            ("**", "ab", true),
            ("a*a", "aa", false),
            ("a*a", "aaa", true),
            ("a", "A", false),
            ("a.c", "abc", false),
        ] {
            assert_eq!(Subject::new(pattern).matches(sub), matches, "{pattern} {sub}");
        }
    }

    #[test]
    fn each_part_of_a_subject_is_a_plain_name() {
        let plain = Subject::of("acme", "my-shop", "production").unwrap();
        assert_eq!(plain.as_str(), "owner:acme:project:my-shop:environment:production");
        for odd in ["*", "a*", "a:b", ":", ""] {
            for (name, parts) in [
                ("team", [odd, "shop", "production"]),
                ("project", ["acme", odd, "production"]),
                ("environment", ["acme", "shop", odd]),
            ] {
                let [team, project, environment] = parts;
                assert_eq!(Subject::of(team, project, environment).unwrap_err().name, name, "{odd}");
            }
        }
    }

    /// With a pattern matcher that backtracks, this test would not end.
    #[test]
    fn a_pattern_is_matched_in_linear_time() {
        let (pattern, sub) = ("*a".repeat(2000) + "b", "a".repeat(8000));
        assert!(!Subject::new(pattern).matches(&sub));
    }
}
