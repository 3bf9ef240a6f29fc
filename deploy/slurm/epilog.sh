#!/bin/bash
# Closes a job's run on this node. slurm.conf: Epilog=/etc/slurm/energyd/epilog.sh
# shellcheck disable=SC1091
. "$(dirname "$0")/energyd.env"

file=$ENERGYD_JOBS/${SLURM_JOB_ID:-none}
[ -r "$file" ] || exit 0
pid=$(sed -n 's/^ENERGYD_JOB_PID=\([0-9]\+\)$/\1/p' "$file")
rm -f "$file"
# The number may be another process's by now: only ours has that command line.
if [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "integrations.job slurm-$SLURM_JOB_ID "; then
  kill -TERM "$pid"
fi
exit 0
