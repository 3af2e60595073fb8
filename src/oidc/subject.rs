//! An accepted subject, or a pattern with `*` that matches several.
//!
//! Pure comparisons of text.

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
    pub fn of(team: &str, project: &str, environment: &str) -> Self {
        Self(format!("owner:{team}:project:{project}:environment:{environment}"))
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

    /// With a pattern matcher that backtracks, this test would not end.
    #[test]
    fn a_pattern_is_matched_in_linear_time() {
        let (pattern, sub) = ("*a".repeat(2000) + "b", "a".repeat(8000));
        assert!(!Subject::new(pattern).matches(&sub));
    }
}
