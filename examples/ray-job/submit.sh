#!/usr/bin/env bash
# The night as a job of a Ray cluster: the cluster's machines do the work, the result is as on one box.
#   examples/ray-job/submit.sh http://head:8265 recipe.yaml
# The recipe's folder travels as the working directory: cloud.yaml and seed.jsonl beside it come along.
# UNDERSTUDY_PASSPHRASE and UNDERSTUDY_KEYS are needed to sign; without them add --no-ship.
set -euo pipefail
address=${1:?name the address of the Ray dashboard, such as http://head:8265}
recipe=${2:?name the recipe}
shift 2

# Only variables that are set travel; a passphrase belongs in the cluster's own environment.
environment=$(python3 - <<'PY'
import json, os
names = ("UNDERSTUDY_CLOUD", "UNDERSTUDY_WORKSPACE", "UNDERSTUDY_KEYS", "UNDERSTUDY_SEED")
print(json.dumps({"env_vars": {name: os.environ[name] for name in names if name in os.environ}}))
PY
)
exec ray job submit --address "$address" --working-dir "$(dirname "$recipe")" \
  --runtime-env-json "$environment" -- \
  understudy distill run -c "$(basename "$recipe")" "$@"
