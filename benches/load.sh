#!/usr/bin/env bash
# The cost of verification for a request. Compares the backend with a plain axum server with the same answer, and the
# caller with a function that only passes on the token and the answer.
#
#     benches/load.sh [ROUNDS]
#
# Needs Linux, curl, python3 and wrk (`apt-get install wrk`). Servers and load generator share one core, because waking up
# another core would hide what is measured. Each round measures each case for a second, one after the other. A time is the
# median of the rounds; a ratio is the median of the ratios within each round. CPU time is the server's, from /proc.
#
# BACKEND and CALLER name binaries to use instead of those that this script builds, for example of an older version.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:-9}
core=0
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$work"' EXIT

cargo build --release --locked -p bench --bins
# Built last and separately, so that only the features of their own dependencies are on.
cargo build --release --locked -p backend -p caller --bins
: "${BACKEND:=target/release/backend}" "${CALLER:=target/release/index}"

declare -A pid url
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
wait_for() { kill -0 "${pid[$1]}" || exit 1; sleep 0.1; }

taskset -c "$core" target/release/plain "$work" >"$work/urls" &
pid[plain]=$!
until [ "$(wc -l <"$work/urls")" = 2 ]; do wait_for plain; done
{ read -r issuer; read -r url[plain]; } <"$work/urls"

backend() { # NAME [VARIABLE=VALUE]...
    local name=$1 port
    shift
    port=$(free_port) url[$name]=http://127.0.0.1:$port
    taskset -c "$core" env OIDC_TEAM_SLUG=acme OIDC_PROJECT_NAME=storefront OIDC_ISSUER="$issuer" \
        HOST=127.0.0.1 PORT="$port" "$@" "$BACKEND" >"$work/$name.log" &
    pid[$name]=$!
    until curl -sfo "$work/answer" "${url[$name]}/readyz"; do wait_for "$name"; done
}
backend backend
backend uncached OIDC_REMEMBERED_TOKENS=1 # each of a thousand tokens in turn is new
backend quiet RUST_LOG=error              # no line for a refusal

function_() { # NAME PROGRAM
    local port
    port=$(free_port) url[$1]=http://127.0.0.1:$port
    taskset -c "$core" env BACKEND_URL="${url[backend]}" VERCEL_DEV_PORT="$port" "$2" >"$work/$1.log" &
    pid[$1]=$!
    until curl -so "$work/answer" "${url[$1]}"; do wait_for "$1"; done
}
function_ caller "$CALLER"
function_ pass_through target/release/pass_through

cat >"$work/tokens.lua" <<'LUA'
local requests, last = {}, 0
local name, scheme = os.getenv("HEADER"):match("(.-): (.*)")
for token in io.lines(os.getenv("TOKENS")) do
  requests[#requests + 1] = wrk.format("GET", nil, { [name] = scheme .. token })
end
function request()
  last = last % #requests + 1
  return requests[last]
end
LUA

cpu() { awk '{ sum += $1 } END { printf "%.0f", sum }' /proc/"${pid[$1]}"/task/*/schedstat; }

measure() { # ROUND CASE SERVER PATH TOKENS STATUS
    local before after status header='Authorization: Bearer '
    case $3 in caller | pass_through) header='x-vercel-oidc-token: ' ;; esac
    status=$(sed -n "1s/.*/$header&/p" "$work/$5" | curl -so "$work/answer" -w '%{http_code}' -H @- "${url[$3]}$4")
    [ "$status" = "$6" ] || { echo "$2: status $status, expected $6" >&2; exit 1; }
    before=$(cpu "$3")
    # As a batch job, wrk doesn't interrupt the server whenever an answer wakes it up.
    HEADER=$header TOKENS="$work/$5" taskset -c "$core" chrt --batch 0 \
        wrk -t1 -c16 -d1 --latency -s "$work/tokens.lua" "${url[$3]}$4" >"$work/wrk"
    after=$(cpu "$3")
    awk -v key="$1 $2" -v cpu=$((after - before)) '
        /requests in/ { n = $1 }
        /Requests\/sec/ { rate = $2 }
        $1 == "99%" { p99 = $2 ~ /us$/ ? $2 / 1000 : $2 ~ /ms$/ ? $2 + 0 : $2 * 1000 }
        END { print key, cpu / n / 1000, rate, p99 }' "$work/wrk" >>"$work/results"
}

resident() { awk '/VmRSS/ { printf "%.1f", $2 / 1000 }' "/proc/${pid[$1]}/status"; }

table() { # "CASE..." CASE...: the cases, with their ratios to those named first
    python3 - "$work/results" "$@" <<'PYTHON'
import collections, statistics, sys
file, bases, *rows = sys.argv[1:]
cases = collections.defaultdict(dict)
for line in open(file):
    number, case, *figures = line.split()
    cases[case][number] = [float(figure) for figure in figures]
median = lambda case, column: statistics.median(figures[column] for figures in cases[case].values())
print("| request | CPU, µs |", *(f"to {base} |" for base in bases.split()), "requests/s | p99, ms |")
print("| --- |", *["---: |"] * (3 + len(bases.split())))
for row in rows:
    ratios = (statistics.median(cases[row][n][0] / cases[base][n][0] for n in cases[row]) for base in bases.split())
    print(f"| {row} | {median(row, 0):.1f} |", *(f"{ratio:.2f} |" for ratio in ratios), f"{median(row, 1):.0f} | {median(row, 2):.2f} |")
PYTHON
}

for round in $(seq "$rounds"); do
    echo "round $round of $rounds" >&2
    measure "$round" plain plain / one 200
    measure "$round" cached backend / one 200
    measure "$round" cached_1000_in_turn quiet / thousand 200
    measure "$round" new uncached / thousand 200
    measure "$round" forged quiet / forged 401
    measure "$round" forged_and_logged backend / forged 401
    measure "$round" unknown_kid quiet / unknown_kid 401
    measure "$round" unknown_kid_and_logged backend / unknown_kid 401
    measure "$round" pass_through pass_through / one 200
    measure "$round" caller caller /api/call one 200
done

echo
table plain plain cached cached_1000_in_turn new forged forged_and_logged unknown_kid unknown_kid_and_logged
echo
table pass_through pass_through caller
echo
echo "Resident at the end, MB: backend $(resident backend), caller $(resident caller)"
