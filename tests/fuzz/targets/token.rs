//! `cargo +nightly fuzz run token --fuzz-dir tests/fuzz`: header and token parsing.

#![no_main]

mod oidc;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oidc::read_token(bytes));
