#!/usr/bin/env bash
# Proves with Vercel's own CLI, Rust builder and function proxy that this repository deploys, in each way that the README
# tells of.
#
# Needs Linux on x86-64, for which the proxy is built, with Rust, a C compiler, Node.js, curl and git; the network only for
# packages. Its tokens come from the local issuer. It works on a copy, so the repository gains nothing but target/.
# CARGO_TARGET_DIR says where to build (default: target/).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
copy=$work/repo
cli_folder=$root/target/vercel-cli
cli_version=60.1.3
vercel=$cli_folder/node_modules/.bin/vercel
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target} VERCEL_TELEMETRY_DISABLED=1
# What is set on this machine is not set on Vercel's.
unset "${!OIDC_@}" "${!BACKEND_@}" "${!VERCEL_OIDC_@}" VERCEL_ENV VERCEL_PROJECT_ID VERCEL_TARGET_ENV VERCEL_URL HOST PORT

passed=0 failed=0 running=() tokens=()

# check NAME COMMAND...: a line that says whether the command succeeds, and what it printed if not.
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

stop() {
    kill "$@" 2>/dev/null || true
    wait "$@" 2>/dev/null || true
}
trap '((${#running[@]} == 0)) || stop "${running[@]}"; rm -rf "$work"' EXIT

# Vercel's proxy listens on port 3000 and no other. Where the system permits it, what runs here runs in a network of its
# own, loopback and nothing else: so the port is free, and nothing can call out.
inside=()
if unshare --user --map-root-user --net ip link set lo up 2>/dev/null; then
    exec {up}< <(exec unshare --user --map-root-user --net sh -c 'ip link set lo up && echo up && exec tail -f /dev/null')
    running+=($!)
    read -r _ <&"$up"
    inside=(nsenter "--target=$!" --user --net --preserve-credentials)
fi

# start COMMAND...: starts it inside; $started is its process, $output what it prints.
start() {
    exec {output}< <(exec "${inside[@]}" "$@" 2>&1)
    started=$!
    running+=("$started")
    log=$work/log
    : >"$log"
}

# prints PATTERN: waits until it has printed a line with this pattern; all that it printed is in $log.
prints() {
    local line
    while read -r -t 900 line <&"$output"; do
        echo "$line" >>"$log"
        [[ $line =~ $1 ]] && return
    done
    cat "$log" && return 1
}

# serve VARIABLE...: serves the functions of the last build; $url is where, $record what they say.
serve() {
    record=$work/record
    : >"$record"
    HOST_HEADER=$work/header HOST_RECORD=$record start node "$root/tests/vercel/host.mjs" serve .vercel/output "$@"
    local port
    read -r port <&"$output"
    url=http://127.0.0.1:$port
}

# new_token ENVIRONMENT: $token is a token that the backend trusts, if it trusts the environment.
new_token() {
    echo "$1" >&"${issuer[1]}"
    read -r token <&"${issuer[0]}"
    tokens+=("$token")
}

# answers STATUS TEXT CURL-ARGUMENT...: the answer has this status, and the text is in its body.
answers() {
    local status=$1 text=$2 answer
    shift 2
    answer=$("${inside[@]}" curl --silent --show-error --noproxy '*' --max-time 60 --write-out '\n%{http_code}' "$@") || return
    [[ ${answer##*$'\n'} == "$status" && $answer == *"$text"* ]] || { echo "$answer" && return 1; }
}

# vercel_build PROJECT-SETTINGS: builds the copy as Vercel's build machines do.
vercel_build() {
    rm -rf .vercel && mkdir .vercel &&
        echo "{\"projectId\": \"prj_test\", \"orgId\": \"team_test\", \"settings\": $1}" >.vercel/project.json &&
        VERCEL_BUILD_IMAGE=1 "$vercel" build --yes --token none
}

# output_is PATH...: these functions and files are what will be reached, and there are no others.
output_is() {
    diff <(printf '%s\n' "$@") <(
        cd .vercel/output && find . \( -name '*.func' -prune -o -path '*/static/*' -type f \) -print | sort
    )
}

# no_token_in FILE: none of the tokens so far is there, nor its signature, without which it is worth nothing.
no_token_in() {
    local token
    for token in "${tokens[@]}"; do
        if grep --fixed-strings "${token##*.}" "$1" | cut --delimiter=' ' --fields=-3 | grep .; then return 1; fi
    done
}

one_end_for_each_invocation() {
    grep -q '^invocation ' "$record" || return 1
    diff <(sed -n 's/^invocation //p' "$record" | sort) <(sed -n 's/^frame \([^ ]*\) end .*/\1/p' "$record" | sort)
}

# ---- What it takes ----

if [[ $(node -p "require('$cli_folder/node_modules/vercel/package.json').version" 2>/dev/null) != "$cli_version" ]]; then
    npm install --prefix "$cli_folder" --no-save --no-package-lock --no-audit --no-fund --loglevel=error "vercel@$cli_version"
fi
cargo build --quiet --locked --manifest-path "$root/Cargo.toml" -p local --example issuer
coproc issuer { exec "${inside[@]}" "$CARGO_TARGET_DIR/debug/examples/issuer"; }
running+=("$issuer_PID")
read -r issuer_url <&"${issuer[0]}"
trust=(OIDC_TEAM_SLUG=acme OIDC_PROJECT_NAME=storefront "OIDC_ISSUER=$issuer_url")

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
check "the caller calls the backend with the token of the request" answers 200 '"environment":"production"' "$url/api/call"
echo "x-vercel-internal-oidc-token: $token" >"$work/header"
check "and with the token as Vercel gives it to a runtime" answers 200 '"environment":"production"' "$url/api/call"
check "the backend answers nobody without a token" answers 401 '"missing_token"' "$url/backend"
check "the backend's health is open" answers 200 '' "$url/backend/healthz"
new_token preview
echo "x-vercel-oidc-token: $token" >"$work/header"
check "the backend refuses another environment" answers 502 '"backend_code":"forbidden"' "$url/api/call"
stop "$started"
check "each invocation ended once" one_end_for_each_invocation
check "the caller wrote to its invocation's log" grep -q "^frame [^ ]*index.func log " "$record"
check "and neither that nor any other frame or line holds a token" no_token_in "$record"

serve
check "without settings the backend starts, and trusts its own project" answers 401 '"missing_token"' "$url/backend"
check "whose keys are not to be had in here" answers 502 '"backend_status":503' "$url/api/call"
stop "$started"

# ---- The backend anywhere ----

dockerfile_build() {
    local command
    command=$(sed -n 's/^ *\(cargo build [^&]*\) &&.*/\1/p' Dockerfile)
    [[ $command ]] && $command
}
check "the Dockerfile's build command builds" dockerfile_build
missing_libraries() {
    ldd "$CARGO_TARGET_DIR/release/backend" | grep -vE '(linux-vdso|libgcc_s|libm|libc)\.so|/ld-linux'
}
check "and the binary needs no library that the Dockerfile's last image lacks" test -z "$(missing_libraries)"

start env "${trust[@]}" OIDC_ENVIRONMENT=preview PORT=0 "$CARGO_TARGET_DIR/release/backend"
check "the backend alone starts" prints 'listening address='
backend_url=http://127.0.0.1:$(sed -n 's/.*listening address=.*://p' "$log")
check "and takes a token" answers 200 '"environment":"preview"' -H "Authorization: Bearer $token" "$backend_url/"
check "and is ready then" answers 200 '' "$backend_url/readyz"

# ---- Two projects ----

cat >api/vercel.json <<'JSON'
{
  "builds": [{ "src": "index.rs", "use": "@vercel/rust" }],
  "routes": [{ "src": "/(.*)", "dest": "/index.rs" }]
}
JSON
check "api/ builds as a project of its own" vercel_build '{"rootDirectory": "api"}'
check "with one function, and nothing else" output_is ./functions/index.rs.func
rm api/vercel.json
serve BACKEND_URL="$backend_url"
check "which calls a backend elsewhere" answers 200 '"environment":"preview"' "$url/api/call"
stop "$started"

check "src/ builds as a project of its own" vercel_build '{"rootDirectory": "src", "framework": "axum"}'
check "with one function, and nothing else" output_is ./functions/rust.func
check "which is packaged as a server" test -x .vercel/output/functions/rust.func/user-server
serve "${trust[@]}" OIDC_ENVIRONMENT=preview
check "and takes a token" answers 200 '"environment":"preview"' -H "Authorization: Bearer $token" "$url/"
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
check "and runs both ends" answers 200 '"environment":"development"' "$url/api/call"
new_token preview
echo "$token" >oidc-token
check "and takes a new token from the file" answers 200 '"environment":"preview"' "$url/api/call"
new_token production
echo "$token" >oidc-token
check "and refuses a token for another environment" answers 502 '"backend_code":"forbidden"' "$url/api/call"
check "and answers nobody without a token" answers 401 '"missing_token"' "$url/backend"
stop "$started"
wait "$rest"
check "and printed no token" no_token_in "$log"

# ---- api/ in a project that was there before ----

rm -rf src tests .env oidc-token
sed -i '/^\[package\]/,$d; /^default-members/d; s/^members = .*/members = ["api"]/' Cargo.toml
mkdir public
echo 'User-agent: *' >public/robots.txt
echo '{ "rewrites": [{ "source": "/api/call", "destination": "/api" }] }' >vercel.json
check "api/ builds in a project that was there before" vercel_build '{}'
check "where index.rs alone becomes a function, and public/ alone is published" \
    output_is ./functions/api/index.func ./static/robots.txt
serve BACKEND_URL="$backend_url"
check "and calls the backend" answers 200 '"environment":"preview"' "$url/api/call"

echo "$passed passed, $failed failed"
((failed == 0))
