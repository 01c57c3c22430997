#!/bin/sh
# Asks the sidecar: ask.sh "my card is gone".  SIDECAR names another address.
set -eu
SIDECAR=${SIDECAR:-http://127.0.0.1:8090}
[ $# -eq 1 ] || { echo "usage: ask.sh TEXT" >&2; exit 2; }
# Only quotes, backslashes and control characters need care inside a JSON text.
text=$(printf '%s' "$1" | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g')
exec curl -fsS --max-time 2 -H 'Content-Type: application/json' \
  --data "{\"text\": \"$text\", \"deadline_ms\": 1000}" "$SIDECAR/v1/predict"
