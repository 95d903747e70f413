#!/usr/bin/env bash
#SBATCH --job-name=hybrid-rs
#SBATCH --array=0-7
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#
# One run over a Slurm array: element I of K draws every K-th input from the I-th on, into a ledger of its own.
#
#   export MODEL=./LlavaGuard-0.5B DATA=memes.csv RUN=run
#   job=$(sbatch --parsable --array=0-7 slurm_array.sh --sigma 0.5 --dtype bfloat16)
#   sbatch --dependency=afterok:"$job" --wrap "hybrid-rs merge $RUN/part-* --out $RUN/all"
#
# Flags behind the script's name go to `hybrid-rs sample`. TERM comes two minutes before the limit and ends an element
# in good order; it goes on where it was when it is queued again, and so does one that was killed. The counts are those
# of one process.
set -euo pipefail
: "${MODEL:?folder, address or name of the model}" "${DATA:?inputs}" "${RUN:?folder of the run}"
: "${SLURM_ARRAY_TASK_ID:?this is for sbatch --array}" "${SLURM_ARRAY_TASK_COUNT:?this is for sbatch --array}"
if [ "${SLURM_ARRAY_TASK_MIN:-0}" -ne 0 ] || [ "${SLURM_ARRAY_TASK_STEP:-1}" -ne 1 ]; then
  echo "The array must be 0-N, as in --array=0-7." >&2
  exit 2
fi
exec hybrid-rs sample --model "$MODEL" --data "$DATA" --out "$RUN/part-$SLURM_ARRAY_TASK_ID" --resume \
  --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" "$@"
