#!/bin/sh
# Prints a bearer token for a user, signed with the key that secrets.sh made (JWT, HS256).
#   deploy/token.sh USER [SECONDS [DIRECTORY]]      (default: a day, deploy/secrets)
set -eu
user=$1
lives=${2:-86400}
key=$(cat "${3:-$(dirname "$0")/secrets}/token.key")
encoded() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
ends=$(($(date +%s) + lives))
claims=$(printf '{"sub":"%s","aud":"hope-server","exp":%s}' "$user" "$ends" | encoded)
body="$(printf '{"alg":"HS256","typ":"JWT"}' | encoded).$claims"
printf '%s.%s\n' "$body" "$(printf '%s' "$body" | openssl dgst -binary -sha256 -hmac "$key" | encoded)"
