#!/usr/bin/env bash
# The night as a job of a Ray cluster: the cluster's machines do the work, the result is as on one box.
#   examples/ray-job/submit.sh http://head:8265 recipe.yaml
# The recipe's folder travels, so cloud.yaml and seed.jsonl beside it come along; publisher-keys, *.env and
# .git do not. To sign there, name the cluster's own keys (--keys), and keep the passphrase in its environment.
set -euo pipefail
address=${1:?name the address of the Ray dashboard, such as http://head:8265}
recipe=${2:?name the recipe}
shift 2
exec understudy distill run -c "$recipe" --submit "$address" "$@"
