#!/bin/bash
# A job on several nodes, whose ranks are one run. sbatch deploy/slurm/job.sh
#
# Works with and without the prolog beside it (which opens a run a node): the id below is the job's own, the same
# on every node. Each node's daemon measures its node; the lake adds them up:
#   energyq --lake s3://energy/fleet hosts slurm-JOBID
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=01:00:00

# A job that was requeued is another execution.
export ENERGYD_RUN_ID="slurm-${SLURM_CLUSTER_NAME:-cluster}-${SLURM_JOB_ID:-0}-${SLURM_RESTART_COUNT:-0}"
unset ENERGYD_STAGE_ID # the prolog's stage is of the node that it ran on

srun "${ENERGYD_PYTHON:-python}" train.py
