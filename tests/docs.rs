//! Checks the documentation: links resolve, the names on a page exist, the program accepts the recipes' settings, and
//! the tables list all variables, error codes and log lines. A README that is not this template's is skipped.
//!
//! The code of the recipes is built and run by `tests/use_the_crates.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use backend::settings::Settings;
use serde_json::Value;

const PAGES: [&str; 14] = [
    "README.md",
    "AGENTS.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/check.md",
    "docs/clouds.md",
    "docs/deploy.md",
    "docs/gate.md",
    "docs/performance.md",
    "docs/releasing.md",
    "docs/security.md",
    "docs/settings.md",
    "docs/use-the-crates.md",
];

/// Variables of the system, which libraries read.
const OF_THE_SYSTEM: [&str; 5] = ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"];
/// A variable of `tests/smoke.sh` alone.
const OF_A_SCRIPT: &str = "VERCEL_AUTOMATION_BYPASS_SECRET";

/// Whether the README is this template's. A project that is made from the template has its own, without the front matter
/// that lists the template at Vercel. Then the checks of the README are skipped.
static IS_TEMPLATE: LazyLock<bool> = LazyLock::new(|| {
    let is_template = read("README.md").contains("\nslug: rust-oidc\n");
    if !is_template {
        // The test harness hides what `eprintln!` prints.
        writeln!(std::io::stderr().lock(), "skipped: README.md is not this template's").unwrap();
    }
    is_template
});

fn pages() -> impl Iterator<Item = &'static str> {
    PAGES.into_iter().filter(|page| *page != "README.md" || *IS_TEMPLATE)
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The Rust files in this folder and below, without tests.
fn rust_files(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(path(folder)).unwrap();
    let names = entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().into_string().unwrap()));
    let files = names.flat_map(|name| match path(&name).is_dir() {
        true => rust_files(&name),
        false => vec![name],
    });
    files.filter(|name| name.ends_with(".rs") && !name.contains("test")).collect()
}

/// The code of a file, without its unit tests and comments.
fn code(name: &str) -> String {
    let text = read(name);
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The code of both programs. `src/routes.rs` is the user's.
fn code_of_both_programs() -> String {
    ["src", "api"].map(code_in).join("\n")
}

fn code_in(folder: &str) -> String {
    let files = rust_files(folder).into_iter().filter(|name| name != "src/routes.rs");
    files.map(|name| code(&name)).collect::<Vec<_>>().join("\n")
}

/// The page's blocks of code in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    read(page).split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The page without its blocks of code.
fn prose(page: &str) -> String {
    read(page).split("```").step_by(2).collect()
}

/// Everything in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The cells of the tables' rows.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
}

/// Whether the text has the form of a variable's name.
fn is_variable(text: &str) -> bool {
    text.len() > 3
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// `NAME=value`, as in a shell or an `.env` file.
fn assignments(text: &str) -> Vec<(&str, &str)> {
    let words = text.split_whitespace().filter_map(|word| word.split_once('='));
    words.filter(|(name, _)| is_variable(name)).collect()
}

#[test]
fn the_readme_has_at_most_200_lines() {
    assert!(!*IS_TEMPLATE || read("README.md").lines().count() <= 200);
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let anchor = heading.to_lowercase();
    let anchor = anchor.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    anchor.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_within_the_repository_resolves() {
    for page in pages() {
        let text = prose(page);
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.contains("://") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(page).parent().unwrap();
            let target = if file.is_empty() { page.into() } else { folder.join(file).to_str().unwrap().to_owned() };
            assert!(path(&target).exists(), "{page}: {link}");
            if !fragment.is_empty() && (!target.ends_with("README.md") || *IS_TEMPLATE) {
                let has_heading = prose(&target)
                    .lines()
                    .any(|line| line.starts_with('#') && anchor(line.trim_start_matches('#').trim()) == fragment);
                assert!(has_heading, "{page}: {link}");
            }
        }
    }
}

/// Files in a project that follows a recipe. The files of `docs/clouds.md` are in `tests/clouds/`.
const IN_OTHER_PROJECTS: [&str; 4] = ["api/vercel.json", "api/order.rs", "api/orders.rs", "src/keys.rs"];

#[test]
fn every_file_that_a_page_names_exists() {
    for page in pages() {
        for name in quoted(&prose(page)).map(|text| text.split(' ').next().unwrap()) {
            let starts = ["src/", "api/", "tests/", "docs/", "benches/", ".ci/"];
            let is_path = starts.iter().any(|start| name.starts_with(start)) && !name.contains('*');
            if is_path && !IN_OTHER_PROJECTS.contains(&name) {
                let is_recipe = path("tests/clouds").join(name).exists();
                assert!(path(name).exists() || is_recipe, "{page}: {name}");
            }
        }
    }
}

/// After a file, names with an underscore are tests in that file.
#[test]
fn every_test_that_the_security_page_names_exists() {
    let page = prose("docs/security.md");
    let (_, attacks) = page.split_once("\n## Attacks and the test that shuts each out\n").unwrap();
    let (mut found, mut file) = (0, None);
    for line in attacks.lines() {
        let tests = line.rsplit(" | ").next().unwrap();
        if line.starts_with('|') {
            file = None;
        }
        for name in quoted(tests) {
            if name.ends_with(".rs") {
                file = Some((name, read(name)));
            } else if name.contains('_') {
                let (file, code) = file.as_ref().unwrap_or_else(|| panic!("`{name}` follows no file"));
                assert!(code.contains(&format!("fn {name}(")), "{file}: {name}");
                found += 1;
            }
        }
    }
    assert!(found >= 40, "{found}");
}

/// Each rule of the tables names a file and a test.
#[test]
fn every_row_of_the_attacks_names_a_file_and_a_test() {
    let page = read("docs/security.md");
    let (_, attacks) = page.split_once("\n## Attacks and the test that shuts each out\n").unwrap();
    let rows: Vec<_> = rows(attacks).collect();
    for row in &rows {
        let [_, _, file, tests] = row[..] else { panic!("{row:?}") };
        if file == "file" || file == "here" {
            continue;
        }
        assert!(quoted(file).any(|name| name.ends_with(".rs")), "{row:?}");
        assert!(quoted(tests).any(|name| !name.contains('.')), "{row:?}");
    }
    for section in (1..=15)
        .map(|number| format!("3.{number} "))
        .chain(["9.1.1", "9.1.2", "9.1.3", "9.2.1", "9.2.2", "9.2.3", "9.2.4"].map(|number| format!("{number} ")))
    {
        assert_eq!(rows.iter().filter(|row| row[0].starts_with(&section)).count(), 1, "{section}");
    }
}

/// The variables that the two programs read: all their names are in string literals.
fn variables_of_the_programs() -> BTreeSet<String> {
    let code = code_of_both_programs();
    let literals = code.split('"').filter(|text| is_variable(text));
    let is_ours = |name: &&str| {
        ["OIDC_", "VERCEL_", "BACKEND_"].iter().any(|start| name.starts_with(start))
            || ["HOST", "PORT", "LOG_FORMAT", "RUST_LOG", "TOKIO_WORKER_THREADS"].contains(name)
    };
    let variables: BTreeSet<_> = literals.filter(is_ours).map(String::from).collect();
    assert!(variables.len() >= 20, "{variables:?}");
    variables
}

#[test]
fn the_settings_page_has_every_variable_and_no_other() {
    let page = read("docs/settings.md");
    let shown: BTreeSet<_> = rows(&page).flat_map(|row| quoted(row[0]).map(String::from).collect::<Vec<_>>()).collect();
    let shown: BTreeSet<_> =
        shown.into_iter().filter(|name| is_variable(name) && !OF_THE_SYSTEM.contains(&name.as_str())).collect();
    assert_eq!(shown, variables_of_the_programs());
}

#[test]
fn each_variable_has_an_example() {
    let page = read("docs/settings.md");
    let mut example_column = None;
    for row in rows(&page) {
        if row[0] == "variable" {
            example_column = row.iter().position(|name| *name == "example");
        } else if quoted(row[0]).any(is_variable) {
            let example = row[example_column.unwrap()];
            assert!(!example.is_empty(), "{row:?}");
        }
    }
}

#[test]
fn the_env_example_has_every_variable_and_no_other() {
    let file = read(".env.example");
    let variables = variables_of_the_programs();
    for name in &variables {
        let mut words = file.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        assert!(words.any(|word| word == name), "{name}");
    }
    for (name, _) in file.lines().filter_map(|line| line.trim_start_matches("# ").split_once('=')) {
        assert!(!is_variable(name) || variables.contains(name), "{name}");
    }
}

/// A problem is made of a status, a code and a detail.
#[test]
fn the_readme_explains_every_error_code() {
    if !*IS_TEMPLATE {
        return;
    }
    let code = code_of_both_programs();
    let after_status = code.split("StatusCode::").skip(1).filter_map(|rest| {
        let (_, rest) = rest.split_once(',')?;
        let rest = rest.trim_start().strip_prefix('"')?;
        rest.split('"').next()
    });
    let codes: BTreeSet<_> = after_status.collect();
    assert!(codes.len() >= 15, "{codes:?}");
    let readme = read("README.md");
    let (_, errors) = readme.split_once("\n## Errors\n").unwrap();
    let explained: BTreeSet<_> = rows(errors).flat_map(|row| quoted(row[0]).collect::<Vec<_>>()).collect();
    let explained: BTreeSet<_> = explained.into_iter().filter(|name| *name != "code").collect();
    let missing: Vec<_> = codes.difference(&explained).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let unknown: Vec<_> = explained.iter().filter(|name| !code.contains(&format!("\"{name}\""))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// A call of one of tracing's macros.
#[derive(Debug)]
struct LogCall {
    level: String,
    /// The message, with `…` for each value that the program fills in.
    message: String,
    fields: BTreeSet<String>,
}

const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];

/// All log lines of the backend and its crate.
fn log_calls() -> Vec<LogCall> {
    let code = code_in("src");
    assert!(!code.contains("event!(") && !code.contains("trace!("), "this test does not read these macros");
    let mut calls = Vec::new();
    for level in LEVELS.into_iter().chain(["span", "info_span", "error_span"]) {
        for (at, name) in code.match_indices(&format!("{level}!(")) {
            if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                calls.push(log_call(level, arguments(&code[at + name.len()..])));
            }
        }
    }
    calls
}

fn log_call(level: &str, arguments: Vec<String>) -> LogCall {
    let mut call = LogCall { level: level.to_owned(), message: String::new(), fields: BTreeSet::new() };
    for argument in arguments {
        let (name, _) = argument.split_once(" = ").unwrap_or((&argument, ""));
        if let Some(message) = argument.strip_prefix('"') {
            // A `\` at the end of a line takes the white space after it away.
            let message = message.trim_end_matches('"').split("\\\n").map(str::trim_start).collect::<String>();
            call.message = message
                .split('{')
                .map(|part| part.split_once('}').map_or(part, |(_, rest)| rest))
                .collect::<Vec<_>>()
                .join("…");
        } else if name.trim_start_matches(['%', '?']).chars().all(|c| c.is_alphanumeric() || c == '_') {
            call.fields.insert(name.trim_start_matches(['%', '?']).to_owned());
        }
    }
    call
}

/// The arguments of a call, from its opening bracket on.
fn arguments(code: &str) -> Vec<String> {
    let (mut arguments, mut depth, mut in_text, mut escaped) = (vec![String::new()], 0, false, false);
    for c in code.chars() {
        match c {
            '"' if !escaped => in_text = !in_text,
            '(' | '[' | '{' if !in_text => depth += 1,
            ')' | ']' | '}' if !in_text && depth == 0 => break,
            ')' | ']' | '}' if !in_text => depth -= 1,
            ',' if !in_text && depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        arguments.last_mut().unwrap().push(c);
    }
    arguments.iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

/// Whether the text has the pattern's parts, in this order. `…` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = text;
    let parts: Vec<_> = pattern.split('…').collect();
    for (number, part) in parts.iter().enumerate() {
        match rest.find(part) {
            Some(0) => rest = &rest[part.len()..],
            Some(at) if number > 0 => rest = &rest[at + part.len()..],
            _ => return false,
        }
    }
    rest.is_empty() || pattern.ends_with('…')
}

/// Each log line of the program is on the page with its level and fields, and the page has no other.
#[test]
fn the_log_has_the_lines_and_fields_of_the_settings_page_and_no_others() {
    let page = read("docs/settings.md");
    let (_, log) = page.split_once("\n## The backend's log\n").unwrap();
    let (log, _) = log.split_once("\n## ").unwrap();
    let (request, other) = log.split_once("\n### Everything else\n").unwrap();
    let calls = log_calls();
    let is_of_a_request = |call: &LogCall| quoted(request).any(|text| text == call.message);

    let of_requests = calls.iter().filter(|call| !LEVELS.contains(&&*call.level) || is_of_a_request(call));
    let logged: BTreeSet<_> = of_requests.flat_map(|call| call.fields.iter().map(String::as_str)).collect();
    let shown: BTreeSet<_> =
        rows(request).filter(|row| row[0] != "field").flat_map(|row| quoted(row[0]).collect::<Vec<_>>()).collect();
    assert_eq!(logged, shown);

    let code = code_in("src");
    let rows: Vec<_> = rows(other).filter(|row| row[0] != "level").collect();
    let describes = |row: &[&str], call: &LogCall| {
        let message = row[1].trim_matches('`');
        let fields: BTreeSet<_> = quoted(row[2]).collect();
        row[0].trim_matches('`') == call.level
            && (matches(message, &call.message) || matches(&call.message, message))
            && fields == call.fields.iter().map(String::as_str).collect()
    };
    for call in calls.iter().filter(|call| LEVELS.contains(&&*call.level) && !is_of_a_request(call)) {
        assert!(rows.iter().any(|row| describes(row, call)), "not on the page: {call:?}");
    }
    for row in &rows {
        assert!(calls.iter().any(|call| describes(row, call)), "the program does not log {row:?}");
        // The text of a message that is a value comes from elsewhere in the program.
        assert!(row[1].trim_matches('`').split('…').all(|part| code.contains(part)), "{row:?}");
    }
}

/// The backend accepts the settings of each recipe, and its trust does not rest on names.
#[test]
fn every_recipe_is_accepted_and_checks_an_id() {
    let mut recipes = 0;
    for page in pages() {
        let yaml = blocks(page, "yaml")
            .into_iter()
            .map(|block| block.replace("{ name: ", "").replace(", value: ", "=").replace(" }", ""));
        for block in blocks(page, "bash").into_iter().chain(blocks(page, "ini")).chain(yaml) {
            let block = block.replace(":PORT/", ":3001/");
            let variables = assignments(&block);
            for (name, _) in &variables {
                let is_known = variables_of_the_programs().contains(*name) || *name == OF_A_SCRIPT;
                assert!(is_known, "{page}: {name}");
            }
            if variables.iter().any(|(name, _)| name.starts_with("OIDC_")) {
                let settings = Settings::read(|name| {
                    variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
                });
                let settings = settings.unwrap_or_else(|error| panic!("{page}: {error}\n{block}"));
                assert!(!settings.trust.rests_on_names(), "{page}: {block}");
                recipes += 1;
            }
        }
    }
    assert!(recipes >= 5, "{recipes}");
}

/// Every command can be parsed, and starts a program, a package or a target that exists.
#[test]
fn every_command_names_what_exists() {
    let targets = ["local/examples", "../benches", "."];
    for page in pages() {
        for block in blocks(page, "bash") {
            let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(block.as_bytes()).unwrap();
            assert!(bash.wait().unwrap().success(), "{page}: {block}");
            for line in block.lines() {
                let words: Vec<_> = line.split_whitespace().collect();
                for word in words.iter().filter(|word| word.starts_with(['.', 't', 'b']) && word.contains('/')) {
                    if !word.contains("://") && !word.contains("/,") {
                        assert!(path(word).exists(), "{page}: {word}");
                    }
                }
                for pair in words.windows(2).filter(|_| words.contains(&"cargo")) {
                    match pair {
                        ["-p", package] => assert!(is_package(package), "{page}: {package}"),
                        ["--example" | "--test", name] => {
                            let exists =
                                targets.iter().any(|folder| path(&format!("tests/{folder}/{name}.rs")).exists());
                            assert!(exists, "{page}: {name}");
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

fn is_package(name: &str) -> bool {
    let manifests = ["", "src/oidc/", "api/", "api/_oidc/", "tests/local/", "benches/"];
    manifests.iter().any(|folder| read(&format!("{folder}Cargo.toml")).contains(&format!("name = \"{name}\"\n")))
}

/// `tests/vercel.sh` builds with the file that the page shows, and `tests/clouds/` uses the policy of the page.
#[test]
fn the_json_of_the_pages_is_valid_and_tested() {
    let script = read("tests/vercel.sh");
    for page in pages() {
        for block in blocks(page, "json") {
            assert!(serde_json::from_str::<Value>(&block).is_ok(), "{page}: {block}");
            assert!(script.contains(&block) || page == "docs/clouds.md", "{page}: {block}");
        }
    }
}
