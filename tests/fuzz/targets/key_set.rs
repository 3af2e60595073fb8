//! `cargo +nightly fuzz run key_set --fuzz-dir tests/fuzz`: the JWKS document.

#![no_main]

mod oidc;

libfuzzer_sys::fuzz_target!(|document: &[u8]| oidc::read_key_set(document));
