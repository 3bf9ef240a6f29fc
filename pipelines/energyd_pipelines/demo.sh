#!/usr/bin/env bash
# What does each stage of a real training program cost on this machine? (`make demo` runs this.)
#
#   demo.sh STORE [options of energyd_pipelines.demo]
#
# A fresh store and a daemon of its own, the program, the daemon's stop, the table. The daemon is stopped
# whatever happens; the exit code is that of the step which failed. STORE is removed first if it is a store.
set -euo pipefail

store=${1:?usage: demo.sh STORE [options of energyd_pipelines.demo]}
shift
if [ -e "$store" ]; then
  # A demo that was killed leaves its daemon running.
  energyd stop --store "$store" >/dev/null 2>&1 || true
  if [ ! -e "$store/lock" ] && [ -n "$(ls -A -- "$store")" ]; then
    echo "$store exists and is no store of energyd: name another folder" >&2
    exit 2
  fi
  rm -rf -- "$store"
fi
mkdir -p -- "$store"
store=$(cd -- "$store" && pwd)

# The socket goes to a short path: a Unix socket's may have 107 characters, a checkout's is often longer.
runtime=$(mktemp -d)
export ENERGYD_ENDPOINT="ipc://$runtime/energyd.sock"
export ENERGYD_SPOOL="$store/spool"

quietly() { # a step that talks only when it fails
  local said code=0
  said=$("$@" 2>&1) || code=$?
  [ "$code" -eq 0 ] || echo "$said" >&2
  return "$code"
}

started=""
cleanup() {
  local code=$?
  trap - EXIT
  if [ -n "$started" ]; then
    quietly energyd stop --store "$store" || true
  fi
  rm -rf -- "$runtime"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

quietly energyd start --store "$store"
started=yes
echo "energyd   samples into the fresh store $store"
if [ -t 1 ]; then
  echo "watch it  ENERGYD_ENDPOINT=$ENERGYD_ENDPOINT $(command -v energyd) top"
fi
echo

python -m energyd_pipelines.demo "$@"

quietly energyd stop --store "$store"
started=""
energyq --store "$store" stages --format table
