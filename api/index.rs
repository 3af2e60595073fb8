//! The function's entry: settings from the environment, one [`Caller`] for the life of the process, Vercel's runtime
//! around it.

use std::sync::Arc;

use caller::{Caller, Settings};
use vercel_runtime::{AppState, Error, Request, run, service_fn};

// One thread: an instance has one CPU unless more was asked for, and a call is mostly waiting. Handing it from thread to
// thread costs more than all that is done here for the token.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // A variable that is not Unicode is set all the same, and must not pass for one that is not.
    let settings = Settings::read(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()));
    let caller = Arc::new(Caller::new(settings));
    run(service_fn(move |request: Request, state: AppState| {
        let caller = Arc::clone(&caller);
        async move {
            // Through the runtime, so that a line stands at its own invocation in Vercel's logs.
            let log = |line: &str| state.log_context.error(line);
            Ok::<_, Error>(caller.handle(&request, log).await)
        }
    }))
    .await
}
