//! Where the function's own token is: a header of the request, a file, or a variable.
//!
//! Guarantees: the first source that is set is used. If this source holds no usable token, that is an error, and no
//! other source is tried. Only a regular file of at most 64 KiB is read, symbolic links followed. See
//! <https://vercel.com/docs/oidc>.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use crate::error::{TokenError, path_for_log};
use crate::token::{Source, Token};

/// The header that Vercel documents, then the one that Vercel hands to a runtime. Other languages' runtimes rename it,
/// the Rust runtime does not.
const HEADERS: [(HeaderName, Source); 2] = [
    (HeaderName::from_static("x-vercel-oidc-token"), Source::Header),
    (HeaderName::from_static("x-vercel-internal-oidc-token"), Source::InternalHeader),
];
/// A token has about 2 KiB.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// What the environment says about the token.
#[derive(Default)]
pub(crate) struct Environment {
    /// `VERCEL_OIDC_TOKEN_FILE`: read at each call, because the file may be replaced at any time.
    pub(crate) file: Option<PathBuf>,
    /// `VERCEL_OIDC_TOKEN`.
    pub(crate) variable: Option<String>,
}

/// The token in the headers of a request, or what is wrong with it. `None` if no header has one.
pub(crate) fn in_headers(headers: &HeaderMap) -> Option<Result<Token, TokenError>> {
    HEADERS.iter().find_map(|(name, source)| {
        let mut values = headers.get_all(name).iter().map(|value| value.as_bytes());
        values.find(|value| !value.trim_ascii().is_empty()).map(|value| parse(value, *source, ""))
    })
}

/// The token of the file or the variable.
pub(crate) async fn in_environment(environment: &Environment) -> Result<Token, TokenError> {
    if let Some(path) = &environment.file {
        let log = path_for_log(path);
        return match read_file(path.clone()).await {
            Ok(bytes) => parse(&bytes, Source::File, &log),
            Err(error) => {
                let problem = format!("file {}. Check `VERCEL_OIDC_TOKEN_FILE`", problem(&error));
                Err(TokenError::Unusable { problem, log, source: Some(Arc::new(error)) })
            }
        };
    }
    let text = environment.variable.as_ref().ok_or(TokenError::Missing)?;
    parse(text.as_bytes(), Source::Variable, "")
}

fn parse(bytes: &[u8], source: Source, log: &str) -> Result<Token, TokenError> {
    // What is not UTF-8 becomes a character that no token has.
    let text = std::str::from_utf8(bytes).unwrap_or("\u{fffd}");
    Token::parse(text, source).map_err(|mistake| {
        let problem = format!("in {} is not usable: {mistake}. Put a JWT there, and nothing else", source.described());
        TokenError::Unusable { problem, log: log.to_owned(), source: None }
    })
}

/// Reads a small file that another program writes, on a thread for blocking work.
pub(crate) async fn read_file(path: PathBuf) -> io::Result<Vec<u8>> {
    tokio::task::spawn_blocking(move || read_now(&path)).await?
}

fn read_now(path: &Path) -> io::Result<Vec<u8>> {
    let regular = |is_file: bool| is_file.then_some(()).ok_or(io::Error::from(io::ErrorKind::InvalidInput));
    // Check before opening, because opening a device can have side effects.
    regular(std::fs::metadata(path)?.is_file())?;
    let file = File::open(path)?;
    // Check again, because the path can lead to another file by now.
    regular(file.metadata()?.is_file())?;
    let mut bytes = Vec::new();
    // One byte more than allowed, because a file can grow, and some have no size.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

fn problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::InvalidInput => "is not a regular file".to_owned(),
        io::ErrorKind::FileTooLarge => "is larger than 64 KiB".to_owned(),
        kind => format!("can't be read ({kind})"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TOKEN: &str = "e30.e30.c2ln";

    async fn find(headers: &HeaderMap, environment: &Environment) -> Result<Token, TokenError> {
        match in_headers(headers) {
            Some(token) => token,
            None => in_environment(environment).await,
        }
    }

    #[tokio::test]
    async fn a_header_wins_over_the_variable_and_a_blank_header_counts_as_unset() {
        let environment = Environment { variable: Some(TOKEN.to_owned()), ..Environment::default() };
        let mut headers = HeaderMap::new();
        for (name, value, source) in [
            ("x-unrelated", TOKEN, Source::Variable),
            ("x-vercel-oidc-token", " ", Source::Variable),
            ("x-vercel-internal-oidc-token", TOKEN, Source::InternalHeader),
            ("x-vercel-oidc-token", TOKEN, Source::Header),
        ] {
            headers.append(name, HeaderValue::from_static(value));
            assert_eq!(find(&headers, &environment).await.unwrap().source(), source);
        }
    }

    #[tokio::test]
    async fn a_source_without_a_usable_token_is_an_error_instead_of_a_fallback() {
        let environment = Environment { variable: Some(TOKEN.to_owned()), ..Environment::default() };
        let mut headers = HeaderMap::new();
        headers.insert("x-vercel-oidc-token", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        let error = find(&headers, &environment).await.unwrap_err();
        let expected =
            "The token in the header `x-vercel-oidc-token` is not usable: it has characters that no JWT has.";
        assert!(error.to_string().starts_with(expected), "{error}");
        let environment = Environment { file: Some(PathBuf::from("/nowhere/token")), ..environment };
        let error = find(&HeaderMap::new(), &environment).await.unwrap_err();
        assert!(matches!(error, TokenError::Unusable { .. }));
        assert!(!error.to_string().contains("nowhere") && error.log_detail().contains("path=`/nowhere/token`"));
    }

    #[tokio::test]
    async fn without_any_source_the_error_says_how_to_get_a_token() {
        let error = find(&HeaderMap::new(), &Environment::default()).await.unwrap_err();
        assert!(matches!(error, TokenError::Missing));
    }

    #[tokio::test]
    async fn the_log_names_the_file_of_each_unusable_token() {
        let folder = folder("log");
        let path = folder.join("token");
        for text in [None, Some(""), Some(" \n"), Some("not-a-jwt"), Some("Bearer e30.e30.c2ln")] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let environment = Environment { file: Some(path.clone()), ..Environment::default() };
            let error = find(&HeaderMap::new(), &environment).await.unwrap_err();
            assert!(error.log_detail().ends_with(&format!("path=`{}`", path.display())), "{text:?}: {error:?}");
            assert!(!error.to_string().contains("log-"), "{error}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_token_in_place_of_a_path_is_not_shown() {
        // The second has a space before its claims, and the third is a part of a token.
        for token in [
            "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2ln",
            "IHsiYWxnIjoiUlMyNTYifQ.IHsic3ViIjoibWUifQ.c2ln",
            "eyJhbGciOiJSUzI1NiJ9",
        ] {
            for path in [token.to_owned(), format!("/x/{token}"), format!("Bearer {token}"), format!("TOKEN={token}")] {
                let environment = Environment { file: Some(path.into()), ..Environment::default() };
                let error = find(&HeaderMap::new(), &environment).await.unwrap_err();
                let text = format!("{error} {}", error.log_detail());
                assert!(!text.contains("alg") && !text.contains(token), "{text}");
            }
        }
    }

    fn read(path: &Path) -> Result<Vec<u8>, String> {
        read_now(path).map_err(|error| problem(&error))
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("vercel-oidc-client-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_file_may_have_64_kib_and_no_more() {
        let folder = folder("size");
        let path = folder.join("file");
        std::fs::write(&path, vec![b'x'; 65_536]).unwrap();
        assert_eq!(read(&path).unwrap().len(), 65_536);
        std::fs::write(&path, vec![b'x'; 65_537]).unwrap();
        assert_eq!(read(&path), Err("is larger than 64 KiB".to_owned()));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_and_a_missing_file_are_told_apart() {
        let folder = folder("kind");
        assert_eq!(read(&folder), Err("is not a regular file".to_owned()));
        assert_eq!(read(&folder.join("none")), Err("can't be read (entity not found)".to_owned()));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn symbolic_links_are_followed_and_a_pipe_is_refused_at_once() {
        let folder = folder("pipe");
        let (file, link, pipe) = (folder.join("file"), folder.join("link"), folder.join("pipe"));
        std::fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read(&link).unwrap(), b"text");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for path in [pipe, link] {
            // Opening a pipe waits for a writer, so this is another thread.
            let (sender, answer) = std::sync::mpsc::channel();
            std::thread::spawn(move || sender.send(read(&path)));
            let answer = answer.recv_timeout(std::time::Duration::from_secs(5)).unwrap();
            assert_eq!(answer, Err("is not a regular file".to_owned()));
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
