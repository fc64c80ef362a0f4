#!/bin/sh
# Makes what compose.yaml needs to be more than a toy: a certificate authority, a certificate for
# everything in it, the keys that sign tokens and seal sessions, and the operators' token.
#   deploy/secrets.sh [DIRECTORY]      (default: deploy/secrets)
# What is there is kept. A token for a user: deploy/token.sh USER
set -eu
umask 077
directory=${1:-$(dirname "$0")/secrets}
mkdir -p "$directory"
cd "$directory"

if [ ! -e ca.pem ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
        -subj "/CN=hope-server test authority" -keyout ca.key -out ca.pem 2>/dev/null
fi
if [ ! -e server.pem ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
        -subj "/CN=hope-server" -CA ca.pem -CAkey ca.key \
        -addext "basicConstraints=critical,CA:FALSE" \
        -addext "subjectAltName=DNS:localhost,DNS:envoy,DNS:hope,DNS:hope-1,DNS:hope-2,IP:127.0.0.1" \
        -keyout server.key -out server.pem 2>/dev/null
fi
for name in token.key master.key operator.token redis.password; do
    [ -e "$name" ] || openssl rand -hex 32 > "$name"
done
# Containers run as users of their own; the directory itself is the owner's alone.
chmod 644 ca.pem server.pem server.key token.key master.key operator.token redis.password
