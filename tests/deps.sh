#!/usr/bin/env bash
# Is everything here that Python's packages do not bring, and if not, who can install it?
#
#   tests/deps.sh demo    what `make demo` needs
#   tests/deps.sh test    what the test suite needs too
#   tests/deps.sh long    what `make test-long` needs besides
#
# As root on Debian or Ubuntu the missing packages are installed; else they are named, and the exit code is 1.
# What only a fleet's tests need is installed too where that can be, and else those are skipped with the reason.
# PYTHON is the interpreter that will make the virtual environment.
set -euo pipefail

python=${PYTHON:-python3}
missing=()
wanted=()
need() { # package, then a command that succeeds when it is there
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
want() { # as need, but nothing fails without it
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || wanted+=("$package")
}
has_initdb() { command -v initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb'; }
compiles_c() { gcc -E - <<<'#include <stdio.h>'; } # no pipe: a compiler that reads nothing must not count as broken

need python3-venv "$python" -c 'import ensurepip, venv'
case ${1:-test} in
  demo) ;;
  test | long)
    need gcc command -v gcc    # builds the fake NVML library
    need libc6-dev compiles_c  # its headers
    need tmux command -v tmux  # a real terminal for the live view
    need shellcheck command -v shellcheck  # reads the scripts of deploy/
    want iproute2 command -v ip  # machines of a fleet, as network namespaces
    want postgresql has_initdb   # its ledger
    ;;
  *) echo "usage: tests/deps.sh demo|test|long" >&2; exit 2 ;;
esac
if [ "${1:-}" = long ]; then
  need zsh command -v zsh  # complete the commands' options
  need fish command -v fish
fi

can_install() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
installed() { # its packages, or what apt-get said last
  echo "installing $*"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1
}
if [ ${#wanted[@]} -gt 0 ] && { ! can_install || ! installed "${wanted[@]}"; }; then
  echo "without ${wanted[*]} some tests of a fleet are skipped" >&2
fi
[ ${#missing[@]} -eq 0 ] && exit 0
if can_install; then
  installed "${missing[@]}" && exit 0
  tail -n 15 "$log" >&2
  echo "apt-get could not install: ${missing[*]}" >&2
else
  echo "missing: ${missing[*]}" >&2
fi
echo "install them, on Debian or Ubuntu: sudo apt-get install ${missing[*]}" >&2
exit 1
