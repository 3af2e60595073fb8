//! Runs the recipes of docs/clouds.md: the page's code, in a function on Vercel's runtime, against stand-ins that check
//! what the real services check.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod aws;
mod azure;
mod gateway;
mod google;
mod internet;
mod page;
#[path = "../../src/recent.rs"]
mod recent;
mod stage;
mod trace;
