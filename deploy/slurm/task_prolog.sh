#!/bin/bash
# Lets a job's programs join its run. slurm.conf: TaskProlog=/etc/slurm/energyd/task_prolog.sh
#
# Slurm puts into a task's environment what its task prolog prints as `export NAME=value`.
# shellcheck disable=SC1091
. "$(dirname "$0")/energyd.env"

[ -r "$ENERGYD_JOBS/${SLURM_JOB_ID:-none}" ] &&
  sed -n 's/^ENERGYD_\(RUN\|STAGE\)_ID=/export &/p' "$ENERGYD_JOBS/$SLURM_JOB_ID"
exit 0
