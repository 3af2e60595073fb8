//! The code of the pages is the code that these tests run.

use std::path::Path;

const CLOUDS: &str = include_str!("../../../../docs/clouds.md");
const DEPLOY: &str = include_str!("../../../../docs/deploy.md");
const MANIFEST: &str = include_str!("../../Cargo.toml");
/// Each recipe's file.
const RECIPES: [&str; 4] = ["aws.rs", "azure.rs", "gateway.rs", "google.rs"];

fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(&fence as &str).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

fn source(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file)).unwrap()
}

/// The code without the indentation of its block.
fn without_indentation(code: &str) -> String {
    code.lines().map(|line| line.strip_prefix("    ").unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_block_of_code_is_a_file_or_a_function_that_is_run() {
    let main = without_indentation(&source("main.rs"));
    let mut shown = Vec::new();
    for block in blocks(CLOUDS, "rust").into_iter().chain(blocks(DEPLOY, "rust")) {
        let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        match names.into_iter().find(|name| source(name) == block) {
            Some(name) => shown.push(name),
            None => assert!(main.contains(block.trim_end()), "tests/clouds/src has no such code:\n{block}"),
        }
    }
    for recipe in RECIPES {
        assert!(shown.iter().any(|name| name == recipe), "{recipe} is on no page");
    }
}

#[test]
fn each_recipe_has_at_most_20_lines_of_code() {
    for recipe in RECIPES {
        let code = source(recipe);
        let lines = code.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count();
        assert!(lines <= 20, "{recipe}: {lines}");
    }
}

/// `cargo add NAME@VERSION [--no-default-features] [-F FEATURES]`, against the dependencies that are built here.
#[test]
fn each_command_adds_what_is_built_here() {
    let mut commands = 0;
    let pages = blocks(CLOUDS, "bash").into_iter().chain(blocks(DEPLOY, "bash"));
    for command in pages.flat_map(str::lines).filter_map(|line| line.strip_prefix("cargo add ")) {
        let (name, options) = command.split_once('@').unwrap();
        let line = MANIFEST.lines().find(|line| line.starts_with(&format!("{name} = "))).expect(name);
        let (version, built) = (options.split(' ').next().unwrap(), line.split('"').nth(1).unwrap());
        // A wider version would not do: Cargo looks for the features in the oldest release that fits.
        assert_eq!(version, built, "{command}");
        assert_eq!(options.contains("--no-default-features"), line.contains("default-features = false"), "{command}");
        let features = options.split_once("-F ").map_or("", |(_, features)| features);
        let built = line.split_once("features = [").map_or("", |(_, list)| list.trim_end_matches("] }"));
        assert_eq!(features.replace(',', ", "), built.replace('"', ""), "{command}");
        commands += 1;
    }
    assert!(commands >= 15, "{commands}");
}
