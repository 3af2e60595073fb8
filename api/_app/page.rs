//! The page at `/`: the two ends, and a button that makes the call.
//!
//! Guarantees: a browser runs only the page's own script, applies only its own style, and talks to no other host. The
//! policy has the hashes of both, taken from the page itself (Content Security Policy Level 3).

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response};
use sha2::{Digest as _, Sha256};

const PAGE: &str = include_str!("page.html");

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let [script, style] = ["script", "style"].map(|name| source(inline(name)));
    let policy = format!(
        "default-src 'none'; script-src {script}; style-src {style}; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    );
    // Base64 is always a header value. If it were not, the page would have no script and no style.
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// The page, with the headers that restrict what a browser does with it.
pub(crate) fn page() -> Response<String> {
    let mut response = Response::new(PAGE.to_owned());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The content of the page's one element of that name.
fn inline(name: &str) -> &'static str {
    let after = PAGE.split_once(&format!("<{name}>")).map_or("", |(_, after)| after);
    after.split_once(&format!("</{name}>")).map_or("", |(inline, _)| inline)
}

fn source(inline: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(inline)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_what_a_browser_computes() {
        // The example of the specification, section 8.4, in the base64 that browsers print.
        assert_eq!(source("alert('Hello, world.');"), "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='");
    }

    #[test]
    fn the_policy_allows_the_script_and_the_style_and_no_more() {
        let response = page();
        let policy = response.headers()["content-security-policy"].to_str().unwrap_or_default();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        for name in ["script", "style"] {
            // A page may have neither.
            assert_eq!(inline(name).is_empty(), !PAGE.contains(&format!("<{name}")));
            assert!(policy.contains(&format!("; {name}-src {};", source(inline(name)))), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
    }

    #[test]
    fn the_page_has_nothing_that_the_policy_forbids() {
        for name in ["script", "style"] {
            assert!(PAGE.matches(&format!("<{name}")).count() <= 1, "a second one would have no hash");
        }
        let markup = PAGE.replace(inline("script"), "").replace(inline("style"), "");
        for tag in markup.split('<').filter_map(|rest| rest.split('>').next()) {
            // Attributes follow white space; what is in quotes is a value.
            for attribute in tag.split('"').step_by(2).flat_map(str::split_whitespace) {
                assert!(!attribute.starts_with("style=") && !attribute.starts_with("on"), "{tag}");
                assert!(!attribute.starts_with("src") && !attribute.starts_with("action="), "{tag}");
            }
        }
    }
}
