//! The function's entry: settings from the environment, one [`Caller`] for the life of the process, Vercel's runtime
//! around it.

use std::sync::Arc;

use caller::{Caller, Settings};
use vercel_runtime::{AppState, Error, Request, run, service_fn};

// One thread, because an instance has one CPU unless more is configured, and a call mostly waits. Passing a call
// between threads would cost more than the work on its token.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // A variable that is not UTF-8 counts as set, so that it is reported instead of ignored.
    let settings = Settings::read(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()));
    let caller = Arc::new(Caller::new(settings));
    run(service_fn(move |request: Request, state: AppState| {
        let caller = Arc::clone(&caller);
        async move {
            // Through the runtime, so that Vercel shows the line with its own invocation.
            let log = |line: &str| state.log_context.error(line);
            Ok::<_, Error>(caller.handle(&request, log).await)
        }
    }))
    .await
}
