//! The caller as seen from outside: the real binary, real sockets, one module for each subject.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod advice;
mod call;
mod exchange;
mod failures;
mod limits;
mod log;
mod refresh;
mod sources;
mod stage;
mod stub;
