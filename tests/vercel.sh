#!/usr/bin/env bash
# Deploys this repository in each way that the docs describe, with Vercel's own CLI, Rust builder and function proxy.
#
# Needs Linux on x86-64 (the proxy is built for it), Rust, a C compiler, Node.js, curl and git. It uses the network for
# packages only, because its tokens come from the local issuer. It works on a copy, and only target/ changes.
# CARGO_TARGET_DIR is the build folder (default: target/).
set -euo pipefail

if [[ $(uname -sm) != "Linux x86_64" ]]; then
    echo "skipped - everything (Vercel's proxy needs Linux on x86-64, and this is $(uname -sm))"
    echo "0 passed, 0 failed, 1 skipped"
    exit
fi
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
copy=$work/repo
cli_folder=$root/target/vercel-cli
cli_version=60.1.3
# The versions in this CLI's package.json.
detectors_version=7.7.3 frameworks_version=3.34.0
vercel=$cli_folder/node_modules/.bin/vercel
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target} VERCEL_TELEMETRY_DISABLED=1
# Without link-time optimisation, the builds take half the time. No check here depends on it. Cargo.toml sets the level
# `s` for the largest crates. With `s` for all crates, the project without this Cargo.toml shares the built crates.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=s CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_STRIP=none
# Vercel's machines have none of these variables.
unset "${!OIDC_@}" "${!BACKEND_@}" "${!VERCEL_OIDC_@}" VERCEL_ENV VERCEL_PROJECT_ID VERCEL_TARGET_ENV VERCEL_URL HOST PORT RUST_LOG LOG_FORMAT

passed=0 failed=0 skipped=0 running=() tokens=()

# check NAME COMMAND...: prints whether the command succeeded. If it failed, its output follows.
check() {
    local name=$1
    shift
    if "$@" >"$work/check.log" 2>&1; then
        echo "ok - $name"
        passed=$((passed + 1))
    else
        echo "not ok - $name"
        sed 's/^/    /' "$work/check.log"
        failed=$((failed + 1))
    fi
}

# skip NAME REASON: prints that this check can't run here, and why.
skip() {
    echo "skipped - $1 ($2)"
    skipped=$((skipped + 1))
}

stop() {
    kill "$@" 2>/dev/null || true
    wait "$@" 2>/dev/null || true
}
trap '((${#running[@]} == 0)) || stop "${running[@]}"; rm -rf "$work"' EXIT

# Vercel's proxy always listens on port 3000. If the system permits it, the programs run in a network namespace with
# only loopback. The port is free there, and nothing can reach the internet.
inside=()
if unshare --user --map-root-user --net ip link set lo up 2>/dev/null; then
    exec {up}< <(exec unshare --user --map-root-user --net sh -c 'ip link set lo up && echo up && exec tail -f /dev/null')
    running+=($!)
    read -r _ <&"$up"
    inside=(nsenter "--target=$!" --user --net --preserve-credentials)
fi

# start COMMAND...: starts the command inside. $started is its process, and $output is its output.
start() {
    exec {output}< <(exec "${inside[@]}" "$@" 2>&1)
    started=$!
    running+=("$started")
    log=$work/log
    : >"$log"
}

# prints PATTERN: waits until the started command prints a line with this pattern. The output so far is in $log.
prints() {
    local line
    while read -r -t 900 line <&"$output"; do
        echo "$line" >>"$log"
        [[ $line =~ $1 ]] && return
    done
    cat "$log" && return 1
}

# serve VARIABLE...: serves the functions of the last build at $url. $record holds their log and output.
serve() {
    record=$work/record
    : >"$record"
    HOST_HEADER=$work/header HOST_RECORD=$record start node "$root/tests/vercel/host.mjs" serve .vercel/output "$@"
    local port
    read -r port <&"$output"
    url=http://127.0.0.1:$port
}

# new_token ENVIRONMENT: sets $token to a new token of this environment.
new_token() {
    echo "$1" >&"${issuer[1]}"
    read -r token <&"${issuer[0]}"
    tokens+=("$token")
}

# answers STATUS TEXT CURL-ARGUMENT...: the answer has this status, and this text in its headers or body.
answers() {
    local status=$1 text=$2 answer
    shift 2
    answer=$("${inside[@]}" curl --silent --show-error --noproxy '*' --max-time 60 --include --write-out '\n%{http_code}' "$@") ||
        return
    [[ ${answer##*$'\n'} == "$status" && $answer == *"$text"* ]] || { echo "$answer" && return 1; }
}

# accepts CURL-ARGUMENT...: the answer is 200 to a verified caller. The body is not checked, because routes can change.
accepts() {
    answers 200 'verify;dur=' "$@"
}

# logs TEXT FILE: the text is in the log, now or within ten seconds.
logs() {
    local attempt
    for attempt in {1..100}; do
        grep --quiet --fixed-strings "$1" "$2" && return
        sleep 0.1
    done
    echo "'$1' is not in the log after $attempt attempts" && cat "$2" && return 1
}

# vercel_build PROJECT-SETTINGS: builds the copy as Vercel's build machines do.
vercel_build() {
    rm -rf .vercel && mkdir .vercel &&
        echo "{\"projectId\": \"prj_test\", \"orgId\": \"team_test\", \"settings\": $1}" >.vercel/project.json &&
        VERCEL_BUILD_IMAGE=1 "$vercel" build --yes --token none
}

# output_is PATH...: these functions and files are published, and nothing else is: no sources.
output_is() {
    diff <(printf '%s\n' "$@") <(
        cd .vercel/output && find . \( -name '*.func' -prune -o -path '*/static/*' -type f \) -print | sort
    )
}

# no_token_in FILE: the file holds no signature of a token so far. Without its signature, a token can't be used.
no_token_in() {
    local token
    for token in "${tokens[@]}"; do
        if grep --fixed-strings "${token##*.}" "$1" | cut --delimiter=' ' --fields=-3 | grep .; then return 1; fi
    done
}

# blocks SECTION LANGUAGE: the code blocks of this language in this section of docs/use-the-crates.md.
blocks() {
    awk -v heading="## $1" -v fence="\`\`\`$2" '
        /^## / { inside = ($0 == heading) }
        inside && $0 == "```" { open = 0 }
        open
        inside && $0 == fence { open = 1 }
    ' "$root/docs/use-the-crates.md"
}

# fails_with TEXT COMMAND...: the command fails and prints the text.
fails_with() {
    local text=$1 output
    shift
    if output=$("$@" 2>&1); then echo "$output" && return 1; fi
    [[ $output == *"$text"* ]] || { echo "$output" && return 1; }
}

one_end_for_each_invocation() {
    grep -q '^invocation ' "$record" || return 1
    diff <(sed -n 's/^invocation //p' "$record" | sort) <(sed -n 's/^frame \([^ ]*\) end .*/\1/p' "$record" | sort)
}

# ---- Preparation ----

installed_version() {
    node -p "require('$cli_folder/node_modules/$1/package.json').version" 2>/dev/null
}
if [[ "$(installed_version vercel) $(installed_version @vercel/fs-detectors) $(installed_version @vercel/frameworks)" != \
    "$cli_version $detectors_version $frameworks_version" ]]; then
    npm install --prefix "$cli_folder" --no-save --no-package-lock --no-audit --no-fund --loglevel=error \
        "vercel@$cli_version" "@vercel/fs-detectors@$detectors_version" "@vercel/frameworks@$frameworks_version"
fi
# `vercel dev` runs `cargo metadata` without a network, which needs the crates of all systems.
cargo fetch --quiet --locked --manifest-path "$root/Cargo.toml"
# All examples, as `cargo test` builds them: `-p local` alone turns other features on, and compiles most crates again.
cargo build --quiet --locked --manifest-path "$root/Cargo.toml" --examples
coproc issuer { exec "${inside[@]}" "$CARGO_TARGET_DIR/debug/examples/issuer"; }
running+=("$issuer_PID")
read -r issuer_url <&"${issuer[0]}"
owner_id=team_7Gw5ZMzpQA8h90F832KGp7nw project_id=prj_7Gw5ZMBpQA8h9GF832KGp7nw
# At this level the backend logs the subject of each accepted request.
trust=(OIDC_TEAM_SLUG=acme OIDC_PROJECT_NAME=storefront "OIDC_ISSUER=$issuer_url" "OIDC_OWNER_ID=$owner_id"
    RUST_LOG=info,backend=debug)
subject=owner:acme:project:storefront:environment

mkdir "$copy"
cd "$copy"
git -C "$root" ls-files -z --cached --others --exclude-standard |
    tar --directory="$root" --null --files-from=- --ignore-failed-read --create 2>/dev/null | tar --extract

# ---- Both ends in one deployment ----

check "vercel build builds both ends" vercel_build '{}'
check "with two functions, and nothing else" output_is \
    ./services/backend/functions/rust.func ./services/caller/functions/index.func
check "every function that a route names exists" node "$root/tests/vercel/host.mjs" check .vercel/output
check "the backend is packaged as a server" test -x .vercel/output/services/backend/functions/rust.func/user-server

new_token production
echo "x-vercel-oidc-token: $token" >"$work/header"
serve "${trust[@]}"
check "the caller serves its page" answers 200 '</html>' "$url/"
check "the caller calls the backend with the token of the request" accepts "$url/api/call"
check "and the backend logs the subject of the token" logs "$subject:production" "$record"
echo "x-vercel-internal-oidc-token: $token" >"$work/header"
check "and with a token in x-vercel-internal-oidc-token" accepts "$url/api/call"
check "and Server-Timing names this header" answers 200 'desc=x-vercel-internal-oidc-token' "$url/api/call"
check "the backend refuses a request without a token" answers 401 '"missing_token"' "$url/backend"
check "/healthz needs no token" answers 200 '' "$url/backend/healthz"
check "tests/smoke.sh passes" "${inside[@]}" "$root/tests/smoke.sh" "$url"
new_token preview
echo "x-vercel-oidc-token: $token" >"$work/header"
check "the backend refuses another environment" answers 502 '"backend_code":"forbidden"' "$url/api/call"
check "tests/smoke.sh fails for it" fails_with 'The backend trusts another project or environment.' "${inside[@]}" "$root/tests/smoke.sh" "$url"
stop "$started"
check "each invocation ended once" one_end_for_each_invocation
check "the caller wrote to its invocation's log" grep -q "^frame [^ ]*index.func log " "$record"
check "and no frame and no line holds a token" no_token_in "$record"

serve
check "without settings, the backend starts and trusts its own project" answers 401 '"missing_token"' "$url/backend"
if ((${#inside[@]})); then
    check "whose keys can't be fetched here" answers 503 '"backend_status":503' "$url/api/call"
else
    skip "whose keys can't be fetched here" "this system permits no network without internet"
fi
stop "$started"

# ---- The presets that Vercel offers ----

check "Vercel detects Rust, and the docs name presets that it offers" \
    node "$root/tests/vercel/presets.mjs" "$cli_folder" "$root" "$root/docs/deploy.md"

# ---- The backend anywhere ----

check "cargo builds the backend alone" cargo build --release --locked --package backend
# A slim image has the C library and the compiler's own library. Everything else must be in the binary.
other_libraries() {
    ldd "$CARGO_TARGET_DIR/release/backend" | grep -vE '(linux-vdso|libgcc_s|libm|libc)\.so|/ld-linux'
}
check "and the binary needs no library but the C library" test -z "$(other_libraries)"

start env "${trust[@]}" OIDC_ENVIRONMENT=preview PORT=0 "$CARGO_TARGET_DIR/release/backend"
check "the backend alone starts" prints 'listening address='
backend_url=http://127.0.0.1:$(sed -n 's/.*listening address=.*://p' "$log")
check "and accepts a token" accepts -H "Authorization: Bearer $token" "$backend_url/"
check "and then is ready" answers 200 '' "$backend_url/readyz"

# ---- The check of any backend ----

# attack OPTION...: sends valid and invalid tokens to the backend that has just started.
attack() {
    "${inside[@]}" "$CARGO_TARGET_DIR/debug/examples/check" --port 9401 "$@" "http://127.0.0.1:$checked_port/"
}
# start_checked VARIABLE...: starts a backend that trusts the check's issuer.
start_checked() {
    start env OIDC_ISSUER=http://127.0.0.1:9401/acme OIDC_AUDIENCE=https://vercel.com/acme PORT=0 HOST=127.0.0.1 "$@" \
        "$CARGO_TARGET_DIR/release/backend"
    prints 'listening address=' && checked_port=$(sed -n 's/.*listening address=.*://p' "$log")
}
attack_passes() {
    attack --strict && attack --json | node -e 'const r = JSON.parse(require("fs").readFileSync(0)); process.exit(r.clean && r.cases.length >= 60 ? 0 : 1)'
}
start_checked "OIDC_SUBJECT=$subject:production" "OIDC_OWNER_ID=$owner_id" "OIDC_PROJECT_ID=$project_id"
check "the backend passes every case of the check" attack_passes
stop "$started"
start_checked 'OIDC_SUBJECT=owner:acme:project:*:environment:*'
check "the check detects a backend that trusts too many callers" fails_with 'subject: The API does not check' attack
stop "$started"

# ---- Two projects ----

cat >api/vercel.json <<'JSON'
{
  "builds": [{ "src": "index.rs", "use": "@vercel/rust" }],
  "routes": [{ "src": "/(.*)", "dest": "/index.rs" }]
}
JSON
check "api/ builds as a project" vercel_build '{"rootDirectory": "api"}'
check "with one function, and nothing else" output_is ./functions/index.rs.func
rm api/vercel.json
serve BACKEND_URL="$backend_url"
check "and calls a backend elsewhere" accepts "$url/api/call"
stop "$started"

check "src/ builds as a project" vercel_build '{"rootDirectory": "src", "framework": "rust"}'
check "with one function, and nothing else" output_is ./functions/rust.func
check "and it is packaged as a server" test -x .vercel/output/functions/rust.func/user-server
serve "${trust[@]}" OIDC_ENVIRONMENT=preview
check "and accepts a token" accepts -H "Authorization: Bearer $token" "$url/"
stop "$started"

# ---- The development server ----

new_token development
echo "$token" >oidc-token
printf '%s\n' "${trust[@]}" OIDC_ENVIRONMENT=development,preview "VERCEL_OIDC_TOKEN_FILE=$copy/oidc-token" VERCEL_URL= >.env
rm -rf .vercel
start "$vercel" dev --local --listen 127.0.0.1:0 --yes
check "vercel dev starts" prints '^> Local resources'
url=$(grep --max-count=1 --only-matching 'http://127.0.0.1:[0-9]*' "$log" || true)
cat <&"$output" >>"$log" &
rest=$!
check "and runs both ends" accepts "$url/api/call"
check "and takes the token from the file" logs "$subject:development" "$log"
check "tests/smoke.sh passes" "${inside[@]}" "$root/tests/smoke.sh" "$url"
new_token preview
echo "$token" >oidc-token
check "and takes a new token from the file" accepts "$url/api/call"
check "and the backend logs the subject of the new token" logs "$subject:preview" "$log"
new_token production
echo "$token" >oidc-token
check "and refuses a token of an environment that it does not trust" answers 502 '"backend_code":"forbidden"' "$url/api/call"
check "and refuses a request without a token" answers 401 '"missing_token"' "$url/backend"
stop "$started"
wait "$rest"
check "and printed no token" no_token_in "$log"

# ---- api/ in an existing project ----

rm -rf src tests benches .env oidc-token
sed -i '/^\[package\]/,$d; /^default-members/d; s/^members = .*/members = ["api", "api\/_oidc"]/' Cargo.toml
mkdir public
echo 'User-agent: *' >public/robots.txt
echo '{ "rewrites": [{ "source": "/api/call", "destination": "/api" }] }' >vercel.json
check "api/ builds in an existing project" vercel_build '{}'
check "and only index.rs becomes a function, and only public/ is published" \
    output_is ./functions/api/index.func ./static/robots.txt
serve BACKEND_URL="$backend_url"
new_token preview
echo "x-vercel-oidc-token: $token" >"$work/header"
check "and calls the backend" accepts "$url/api/call"
stop "$started"

# ---- A function that uses the client ----

recipe='A function that posts an order'
follow_recipe() {
    export TEMPLATE=$root
    cargo init --quiet --vcs none --name fresh && rm -r src && mkdir api public &&
        echo 'User-agent: *' >public/robots.txt &&
        blocks "$recipe" toml >>Cargo.toml && blocks "$recipe" rust >api/order.rs &&
        cp "$root/Cargo.lock" . &&
        bash -euc "$(blocks "$recipe" bash)" && cat Cargo.toml
}
mkdir "$work/fresh" && cd "$work/fresh"
check "the recipe of docs/use-the-crates.md can be followed" follow_recipe
check "and Vercel builds its function" vercel_build '{}'
check "and publishes no source" output_is ./functions/api/order.func ./static/robots.txt

echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
