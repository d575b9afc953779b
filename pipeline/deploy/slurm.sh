#!/usr/bin/env bash
# An array of studies, a variant each, on a cluster with Slurm. A job that is cut off by its time limit is queued
# again, and goes on where it was: Slurm sends SIGTERM, the study ends its runs as interrupted and keeps checkpoints.
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

# a store for each study is enough on a shared folder; set VARIANTS_STORAGE to a PostgreSQL server for one that all share
STORAGE="${VARIANTS_STORAGE:-sqlite:///optuna-$VARIANT.db}"

python -m pipeline.study --variant "$VARIANT" --dataset "$DATASET" --storage "$STORAGE" \
    --workers "$CORES" --threads 1 "${@:2}" &
STUDY=$!
trap 'kill -TERM $STUDY' TERM
code=0
wait $STUDY || code=$?
if (( code > 128 )); then wait $STUDY || code=$?; fi  # the first wait ended by the signal
if (( code == 130 )) && [[ -n "${SLURM_JOB_ID:-}" ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
