#!/usr/bin/env bash
# Is everything here that Python's packages do not bring, and if not, who can install it?
#
#   tests/deps.sh demo    what `make demo` needs
#   tests/deps.sh test    what the test suite needs too
#   tests/deps.sh long    what `make test-long` needs besides
#
# As root on Debian or Ubuntu the missing packages are installed; else they are named, and the exit code is 1.
# PYTHON is the interpreter that will make the virtual environment.
set -euo pipefail

python=${PYTHON:-python3}
missing=()
need() { # package, then a command that succeeds when it is there
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
compiles_c() { gcc -E - <<<'#include <stdio.h>'; } # no pipe: a compiler that reads nothing must not count as broken

need python3-venv "$python" -c 'import ensurepip, venv'
case ${1:-test} in
  demo) ;;
  test | long)
    need gcc command -v gcc    # builds the fake NVML library
    need libc6-dev compiles_c  # its headers
    need tmux command -v tmux  # a real terminal for the live view
    need shellcheck command -v shellcheck  # reads the scripts of deploy/
    ;;
  *) echo "usage: tests/deps.sh demo|test|long" >&2; exit 2 ;;
esac
if [ "${1:-}" = long ]; then
  need zsh command -v zsh  # complete the commands' options
  need fish command -v fish
fi

[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]}"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
      >"$log" 2>&1; then
    exit 0
  fi
  tail -n 15 "$log" >&2
  echo "apt-get could not install: ${missing[*]}" >&2
else
  echo "missing: ${missing[*]}" >&2
fi
echo "install them, on Debian or Ubuntu: sudo apt-get install ${missing[*]}" >&2
exit 1
