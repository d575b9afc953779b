#!/usr/bin/env bash
# An array of studies, one for each variant, on a cluster with Slurm. A job that reaches its time limit is queued again
# and continues where it stopped: on SIGTERM, the study marks its runs as interrupted and keeps their checkpoints.
#
#   sbatch --array=0-5 pipeline/deploy/slurm.sh mnist
#
#SBATCH --job-name=vae-variants
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
set -euo pipefail

DATASET="${1:-digits}"
VARIANTS=(vae beta cvae aae vrae hvae)
VARIANT="${VARIANTS[${SLURM_ARRAY_TASK_ID:-0}]}"
CORES="${SLURM_CPUS_PER_TASK:-2}"
if [[ "$VARIANT" == vrae ]]; then DATASET="$DATASET-rows"; fi

# on a shared folder, each study can have its own SQLite file; set VARIANTS_STORAGE to share one PostgreSQL server
STORAGE="${VARIANTS_STORAGE:-sqlite:///optuna-$VARIANT.db}"

python -m pipeline.study --variant "$VARIANT" --dataset "$DATASET" --storage "$STORAGE" \
    --workers "$CORES" --threads 1 "${@:2}" &
STUDY=$!
trap 'kill -TERM $STUDY' TERM
code=0
wait $STUDY || code=$?
if (( code > 128 )); then wait $STUDY || code=$?; fi  # the signal ended the first wait
if (( code == 130 )) && [[ -n "${SLURM_JOB_ID:-}" ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
