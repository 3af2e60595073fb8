#!/usr/bin/env bash
# Checks a deployment in ten seconds: the function gets its token and calls the API, and the API refuses everyone else.
# Needs bash and curl.
#
#   tests/smoke.sh https://my-project.vercel.app
#   tests/smoke.sh https://my-project.vercel.app --backend https://api.example.com
#
# If Deployment Protection is on, set VERCEL_AUTOMATION_BYPASS_SECRET to the project's bypass secret.
# Exit code 0: every check passed. 1: a check failed, and the line under it says what to do. 2: wrong usage.
set -u
# In another locale, [a-z] and a comparison without case may take other letters.
export LC_ALL=C

usage() {
    echo "usage: tests/smoke.sh URL [--backend URL]" >&2
    exit 2
}

url='' backend=''
while (($#)); do
    case $1 in
    --backend)
        [[ ${2:-} == http*://* ]] || usage
        backend=$2
        shift
        ;;
    http://* | https://*)
        [[ $url ]] && usage
        url=${1%/}
        ;;
    *) usage ;;
    esac
    shift
done
[[ $url ]] || usage
# In one deployment, the API is at /backend.
backend_is_here=$([[ $backend ]] || echo yes)
backend=${backend:-$url/backend}
shopt -s nocasematch

passed=0 failed=0

pass() {
    echo "ok - $1"
    passed=$((passed + 1))
}

# fail NAME ADVICE: prints the check that failed, and what to do.
fail() {
    echo "not ok - $1"
    echo "    $2"
    failed=$((failed + 1))
}

# get URL [CURL-ARGUMENT...]: sets $status, $head and $body. Without an answer, $status is 000 and $problem says why.
get() {
    local all config='' no_proxy_for=${no_proxy:-${NO_PROXY:-}}
    # A proxy can't reach this machine's loopback.
    [[ $1 =~ ^https?://(localhost|127\.[0-9.]+|\[::1\])(:|/|$) ]] && no_proxy_for='*'
    if [[ ${VERCEL_AUTOMATION_BYPASS_SECRET:-} && $1 == "$url"/* ]]; then
        config="header = \"x-vercel-protection-bypass: $VERCEL_AUTOMATION_BYPASS_SECRET\""
    fi
    # The secret goes through a pipe, because all users of this machine can read the list of processes.
    # --disable must come first. Without it, options in ~/.curlrc would change the answers.
    all=$(curl --disable --config - --silent --show-error --include --suppress-connect-headers --max-time 15 \
        --noproxy "$no_proxy_for" --write-out '\n%{http_code}' "$@" 2>&1 <<<"$config")
    status=${all##*$'\n'}
    all=${all%$'\n'*}
    head=${all%%$'\r\n\r\n'*}
    body=${all#*$'\r\n\r\n'}
    problem=${all##*curl: }
}

# has_header NAME VALUE: the last answer has this header, and its value begins with this text.
has_header() {
    [[ $'\n'$head == *$'\n'"$1: $2"* ]]
}

# code: the last answer's error code, if it has one.
code() {
    [[ $body =~ \"code\":\ *\"([A-Za-z0-9_.:-]+)\" ]] && echo "${BASH_REMATCH[1]}"
}

# elsewhere: prints why the last answer did not come from this project's programs. Fails if it may have come from them.
elsewhere() {
    if [[ $status == 000 ]]; then
        echo "Nothing answers: ${problem%%$'\n'*}. Check the address."
    elif has_header set-cookie _vercel_sso || [[ $head == *"vercel.com/sso-api"* || $body == *"Vercel Authentication"* ]]; then
        echo "Deployment Protection answers instead. Use the production domain, set VERCEL_AUTOMATION_BYPASS_SECRET, or" \
            "change Settings > Deployment Protection."
    elif has_header x-vercel-error ''; then
        [[ $'\n'$head =~ $'\n'x-vercel-error:\ ([A-Z_]+) ]]
        echo "Vercel answers ${BASH_REMATCH[1]:-with an error}. Look at the deployment's build and runtime logs."
    elif [[ $status == 30? ]]; then
        echo "The URL redirects. Pass the URL that it redirects to."
    else
        return 1
    fi
}

# ---- The page ----

get "$url/"
if [[ $status == 200 && $body == *"</html>"* ]]; then
    pass "the page loads"
else
    fail "the page loads (answered $status)" \
        "$(elsewhere || echo "This is not the function's page. Check the address, and that the deployment has api/ as its caller.")"
fi

# ---- The call ----

# call_advice: what to do about the last answer of /api/call.
call_advice() {
    elsewhere && return
    local backend_code='' backend_status=''
    [[ $body =~ \"backend_code\":\ *\"([A-Za-z0-9_.:-]+)\" ]] && backend_code=${BASH_REMATCH[1]}
    [[ $body =~ \"backend_status\":\ *([0-9]+) ]] && backend_status=${BASH_REMATCH[1]}
    case $(code) in
    token_unavailable)
        echo "The function has no token. Turn on OIDC federation in Settings > Security, and deploy again."
        ;;
    misconfigured) echo "A setting of the function is wrong. Check BACKEND_URL; the function's log has the details." ;;
    backend_refused)
        case $backend_code in
        forbidden) echo "The backend trusts another project or environment. Compare its OIDC_* variables with the token's subject in the function's log." ;;
        invalid_token) echo "The backend does not accept the token. Compare the team, issuer mode and audience with the backend's log, which says what it accepts." ;;
        missing_token) echo "The token does not arrive. A proxy or CDN in front of the backend removes the Authorization header." ;;
        *) echo "Something in front of the backend answers $backend_status. If it is Deployment Protection, add this project to the backend's trusted sources." ;;
        esac
        ;;
    backend_unavailable)
        echo "The backend can't answer now ($backend_status ${backend_code:-without a code}). If its code is keys_unavailable, it can't reach the issuer's keys."
        ;;
    backend_unreachable) echo "The function can't connect to the backend. Check BACKEND_URL, and that the backend runs." ;;
    backend_timeout)
        echo "The backend answers too slowly. Check its log, and that it is in the function's region (Settings > Functions > Region)."
        ;;
    backend_error) echo "The backend answers $backend_status. Check the path of BACKEND_URL, and the backend's log." ;;
    *) echo "The answer has no error code. Check that the deployment has api/ as its caller, and read its runtime log." ;;
    esac
}

get "$url/api/call"
if [[ $status == 200 ]]; then
    pass "/api/call reaches the API with the function's token"
    if [[ $'\n'$head =~ $'\n'server-timing:[^$'\n']*token\;[^,$'\n']*desc=\"?([a-z0-9-]+) ]]; then
        pass "the function's token comes from: ${BASH_REMATCH[1]}"
    else
        fail "Server-Timing names the source of the function's token" \
            "The header is missing or has no token;desc=. A proxy or CDN in front of the function may remove it."
    fi
else
    fail "/api/call reaches the API with the function's token (answered $status $(code))" "$(call_advice)"
fi

# ---- The API ----

get "$backend/readyz"
if [[ $status == 200 ]]; then
    pass "the API holds the issuer's keys"
elif [[ $status == 503 && $(code) == keys_unavailable ]]; then
    fail "the API holds the issuer's keys (answered 503)" \
        "It can't fetch them. Read its log; check OIDC_TEAM_SLUG, OIDC_JWKS_URL and its network (HTTPS_PROXY)."
else
    fail "the API holds the issuer's keys (answered $status)" "$(elsewhere ||
        if [[ $backend_is_here ]]; then
            echo "The API is not at /backend of this deployment. Pass --backend URL, or check the rewrites in vercel.json."
        else
            echo "This is not the API's /readyz. Check the URL after --backend."
        fi)"
fi

# refuses NAME CODE CHALLENGE [TOKEN]: the answer is 401 with this code, and its WWW-Authenticate begins with CHALLENGE.
refuses() {
    local name=$1 expected_code=$2 challenge=$3 token=${4:-}
    if [[ $token ]]; then
        get "$backend" --header "Authorization: Bearer $token"
    else
        get "$backend"
    fi
    if [[ $status == 2?? ]]; then
        fail "$name (answered $status)" "THE API IS OPEN TO EVERYONE. Its guard is missing: see src/app.rs."
    elif [[ $status == 503 && $(code) == keys_unavailable ]]; then
        fail "$name (answered 503 keys_unavailable)" "The API can't verify any token before it has the issuer's keys."
    elif [[ $status != 401 || $(code) != "$expected_code" ]]; then
        fail "$name (answered $status $(code))" "$(elsewhere ||
            echo "Expected 401 $expected_code from the API. Is another program at this URL, or in front of the API?")"
    elif ! has_header www-authenticate "$challenge" || [[ ! $token && $head == *error=* ]]; then
        fail "$name (WWW-Authenticate is wrong)" "A proxy or CDN in front of the API changes the header, or this is another API."
    elif [[ $token ]] && ! has_header cache-control no-store; then
        fail "$name (Cache-Control is not no-store)" "A proxy or CDN in front of the API changes the header. It may cache answers."
    else
        pass "$name"
    fi
}

refuses "the API refuses a request without a token" missing_token 'Bearer'
refuses "the API refuses a text that is not a token" invalid_token 'Bearer error="invalid_token"' garbage

# A token with the right form and claims, and no valid signature:
# {"alg":"RS256","typ":"JWT","kid":"smoke-test"}
forged=eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InNtb2tlLXRlc3QifQ
# {"iss":"https://oidc.vercel.com/acme","aud":"https://vercel.com/acme","sub":"owner:acme:project:storefront:environment:production","exp":4102444800}
forged+=.eyJpc3MiOiJodHRwczovL29pZGMudmVyY2VsLmNvbS9hY21lIiwiYXVkIjoiaHR0cHM6Ly92ZXJjZWwuY29tL2FjbWUiLCJzdWIiOiJvd25lcjphY21lOnByb2plY3Q6c3RvcmVmcm9udDplbnZpcm9ubWVudDpwcm9kdWN0aW9uIiwiZXhwIjo0MTAyNDQ0ODAwfQ
# A signature of 256 zero bytes.
printf -v zeros '%0342d' 0
forged+=.${zeros//0/A}
refuses "the API refuses a forged token" invalid_token 'Bearer error="invalid_token"' "$forged"

echo "$passed passed, $failed failed"
((failed == 0))
