#!/usr/bin/env bash
# What do three ways to a small model cost on this machine, and from which reuse on does distilling pay? (`make demo`)
#
#   demo.sh FOLDER [what `distill run` takes: a preset, key=value …]
#
# A daemon of its own on FOLDER/store, the study, the daemon's stop, the tables. The daemon is stopped whatever
# happens; the exit code is that of the step which failed. A second demo goes on in the same store, so that the
# teacher's artifacts in FOLDER/artifacts are reused and what they took is known; remove FOLDER to begin anew.
set -euo pipefail

folder=${1:?usage: demo.sh FOLDER [options of distill run]}
shift
if [ -e "$folder" ] && [ ! -e "$folder/store/lock" ] && [ -n "$(ls -A -- "$folder")" ]; then
  echo "$folder exists and is no demo of energyd: name another folder" >&2
  exit 2
fi
mkdir -p -- "$folder/store"
folder=$(cd -- "$folder" && pwd)
store=$folder/store
if [ -e "$store/lock" ]; then
  # A demo that was killed leaves its daemon running.
  energyd stop --store "$store" >/dev/null 2>&1 || true
fi

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
echo "energyd   samples into the store $store"
if [ -t 1 ]; then
  echo "watch it  ENERGYD_ENDPOINT=$ENERGYD_ENDPOINT $(command -v energyd) top"
fi
echo

distill run "$@" "reuse.root=$folder/artifacts" "out=$folder/runs"

quietly energyd stop --store "$store"
started=""
echo
echo "What each stage took, mean of each pipeline and size (J):"
energyq --store "$store" --format table "
  PIVOT (
    SELECT r.labels->>'pipeline' AS pipeline, r.labels->>'student' AS student, s.stage,
      sum(s.total_j) / count(DISTINCT r.run_id) AS mean_j
    FROM stage_totals s JOIN runs r USING (run_id)
    WHERE s.depth = 0 AND r.status = 'ok' AND r.labels->>'student' IS NOT NULL GROUP BY ALL
  ) ON stage IN ('prerun', 'preprocess', 'teacher.logits', 'teacher.generate', 'student.train', 'evaluate')
  USING round(sum(mean_j), 2) ORDER BY pipeline <> 'sft', pipeline, student DESC"
echo
code=0
energyq --store "$store" frontier --format table || code=$?
echo
[ "$code" -ne 0 ] || energyq --store "$store" breakeven --format table || code=$?
# 4: some answer is not known, and the table says which and why. That is an answer too.
[ "$code" -eq 4 ] || exit "$code"
