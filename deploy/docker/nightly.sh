#!/bin/sh
# The clock of a box without cron or systemd: waits until NIGHT_AT (UTC, HH:MM), runs the command it was
# given, and waits for the next day. A night that fails or refuses is reported and does not end the loop.
#   nightly understudy distill run -c /etc/understudy/recipe.yaml
# NIGHT_ONCE=1 runs one night at once and leaves with its exit status.
set -eu
NIGHT_AT=${NIGHT_AT:-02:30}

[ $# -gt 0 ] || { echo "nightly: name the command to run, e.g. understudy distill run -c recipe.yaml" >&2; exit 2; }
echo "$NIGHT_AT" | grep -Eq '^([01][0-9]|2[0-3]):[0-5][0-9]$' || { echo "nightly: NIGHT_AT must be HH:MM, not '$NIGHT_AT'" >&2; exit 2; }
[ "${NIGHT_ONCE:-0}" = 1 ] && exec "$@"

seconds_until() {  # seconds from now to the next HH:MM, 1 to 86400
  now=$(date -u +%s)
  hour=${1%%:*}; minute=${1##*:}
  at=$(( (${hour#0} * 60 + ${minute#0}) * 60 ))
  wait=$(( at - now % 86400 ))
  [ "$wait" -gt 0 ] || wait=$(( wait + 86400 ))
  echo "$wait"
}

[ "${NIGHT_PRINT:-0}" = 1 ] && { seconds_until "$NIGHT_AT"; exit 0; }
trap 'exit 0' TERM INT
while :; do
  wait_s=$(seconds_until "$NIGHT_AT")
  echo "nightly: next run in ${wait_s} s"
  sleep "$wait_s" &
  wait $!
  "$@" || echo "nightly: '$*' left with status $?; the student in use stays" >&2
done
