//! Checks whether an API in any language verifies Vercel's OIDC tokens: `cargo run -p local --example check -- URL`.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use local::check::{Check, Options, Outcome, Progress, Row};

const USAGE: &str = "\
usage: cargo run -p local --example check -- [OPTIONS] URL

Starts a local issuer, waits for the API at URL, and sends it valid and invalid tokens. URL is a protected route that
answers GET with 2xx (see --method). Exit code 0: the API accepted every valid token and refused every invalid token.
1: it did not. 2: the check could not run.

  --port PORT              the local issuer's port (9400)
  --path PATH              the path of the protected route, instead of URL's
  --header 'NAME: VALUE'   a header of each request. {token} in VALUE is replaced by the token. May be repeated
                           (authorization: Bearer {token})
  --issuer ISS             the issuer that tokens name (http://127.0.0.1:PORT/acme)
  --method METHOD          the method of each request (GET)
  --data TEXT              the body of each request, application/json unless --header says otherwise
  --audience AUD           the audience that the API accepts (https://vercel.com/acme)
  --subject SUB            the subject that the API accepts (owner:acme:project:storefront:environment:production)
  --ids                    the API decides by owner_id, project_id and environment, not by the names in iss and sub
  --wait SECONDS           how long the API may take to start (60)
  --timeout SECONDS        how long the API may take to answer (10)
  --patience SECONDS       how long the API may refuse a valid token until it has fetched its key (40)
  --ca FILE                trust the certificate authorities in this PEM file, instead of the system's
  --insecure               accept any certificate
  --long                   also try cases that take minutes: the issuer is down, the life of a withdrawn key
  --key-life SECONDS       for how long --long tries a withdrawn key (660)
  --strict                 also fail for accepted tokens that alone gain an attacker nothing
  --json                   print one JSON document instead of the table
";

#[tokio::main]
async fn main() -> ExitCode {
    match arguments(std::env::args().skip(1)) {
        Ok((url, options, json)) => match check(&url, options, json).await {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(2)
            }
        },
        Err(problem) => {
            eprint!("{problem}{USAGE}");
            ExitCode::from(2)
        }
    }
}

async fn check(url: &str, options: Options, json: bool) -> io::Result<bool> {
    let port = options.port;
    let check = Check::start(options).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            io::Error::new(error.kind(), format!("port {port} is in use: choose another with --port"))
        }
        _ => error,
    })?;
    // The table goes to standard output. Progress goes to standard error, so that `--json` prints only JSON.
    eprintln!("Configure the API with these settings, and start it:\n");
    for (name, value) in check.settings() {
        eprintln!("  {name:<10}{value}");
    }
    eprintln!("\nIf it also checks ids:\n");
    for (name, value) in check.ids() {
        eprintln!("  {name:<12}{value}");
    }
    eprintln!("\nWaiting for {url}");
    check.wait(url).await?;

    let mut again = "";
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let report = check
        .run(url, |progress| match progress {
            Progress::Retrying(case, patience) if case != again => {
                again = case;
                eprintln!("{case} is refused: trying again for up to {} seconds", patience.as_secs());
            }
            Progress::Retrying(..) => {}
            Progress::Group(title) if !json => print(&format!("\n{title}")),
            Progress::Row(row) if !json => print(&line(row, colour)),
            Progress::Group(_) | Progress::Row(_) => {}
        })
        .await?;
    print(&if json { format!("{:#}", report.to_json()) } else { format!("\n{}", report.summary()) });
    Ok(report.is_clean())
}

fn line(row: &Row, colour: bool) -> String {
    let word = format!("{:<9}", row.outcome.word());
    let word = match row.outcome {
        Outcome::Failed(_) | Outcome::Unproven(_) if colour => format!("\x1b[31m{word}\x1b[0m"),
        _ => word,
    };
    let answered = row.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    format!("{word}{:<26}{:<8}{answered:<5}{} ({})", row.name, row.expected, row.what, row.source)
}

/// Prints, and ignores a closed pipe. `println!` would panic.
fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn arguments(arguments: impl Iterator<Item = String>) -> Result<(String, Options, bool), String> {
    let mut options = Options::default();
    let (mut json, mut path, mut url) = (false, None, None);
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value\n\n"));
        match argument.as_str() {
            "--port" => options.port = number(&value()?)?,
            "--path" => path = Some(value()?),
            "--header" => {
                let header = value()?;
                let (name, value) = header.split_once(':').ok_or("--header needs `NAME: VALUE`\n\n")?;
                options.headers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
            "--method" => options.method = value()?,
            "--data" => options.data = Some(value()?),
            "--issuer" => options.issuer = Some(value()?),
            "--audience" => options.audience = value()?,
            "--subject" => options.subject = value()?,
            "--wait" => options.wait = Duration::from_secs(number(&value()?)?),
            "--timeout" => options.timeout = Duration::from_secs(number(&value()?)?),
            "--patience" => options.patience = Duration::from_secs(number(&value()?)?),
            "--key-life" => options.key_life = Duration::from_secs(number(&value()?)?),
            "--ca" => {
                let file = value()?;
                options.ca = Some(std::fs::read(&file).map_err(|error| format!("--ca {file}: {error}\n\n"))?);
            }
            "--insecure" => options.insecure = true,
            "--long" => options.long = true,
            "--ids" => options.ids = true,
            "--strict" => options.strict = true,
            "--json" => json = true,
            "--help" | "-h" => return Err(String::new()),
            _ if argument.starts_with('-') || url.is_some() => return Err(format!("unexpected: {argument}\n\n")),
            _ => url = Some(argument),
        }
    }
    let url = url.ok_or("the URL of the API is missing\n\n")?;
    let mut url = reqwest::Url::parse(&url).map_err(|_| format!("not a URL: {url}\n\n"))?;
    if let Some(path) = path {
        url.set_path(&path);
    }
    Ok((url.into(), options, json))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a number in range: {text}\n\n"))
}
