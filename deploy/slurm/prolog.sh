#!/bin/bash
# Opens a run for a job on this node. slurm.conf: Prolog=/etc/slurm/energyd/prolog.sh
#
# Never fails: a prolog that does drains the node, and energy is not worth that.
# shellcheck disable=SC1091
. "$(dirname "$0")/energyd.env"

open_run() {
  local as=() labels=() answer
  # The run belongs to the job's user, or his programs could not join it.
  [ "$(id -u)" -ne 0 ] || as=(setpriv --reuid "$SLURM_JOB_UID" --regid "$SLURM_JOB_GID" --init-groups)
  labels=(--label "slurm_job_id=$SLURM_JOB_ID" --label "slurm_cluster=${SLURM_CLUSTER_NAME:-}"
    --label "slurm_user=${SLURM_JOB_USER:-}" --label "slurm_partition=${SLURM_JOB_PARTITION:-}"
    --label "node=${SLURMD_NODENAME:-$(hostname)}")
  install -d -m 0755 "$ENERGYD_JOBS" || return
  answer=$(cd / && timeout 10 "${as[@]}" "$ENERGYD_PYTHON" -m energyd_client.integrations.job \
    "slurm-$SLURM_JOB_ID" --gpus "${SLURM_JOB_GPUS:-}" "${labels[@]}") || return
  printf '%s\n' "$answer" >"$ENERGYD_JOBS/$SLURM_JOB_ID.new" &&
    mv "$ENERGYD_JOBS/$SLURM_JOB_ID.new" "$ENERGYD_JOBS/$SLURM_JOB_ID"
}

[ -n "${SLURM_JOB_ID:-}" ] && open_run || echo "energyd: job ${SLURM_JOB_ID:-?} is not measured as a run" >&2
exit 0
