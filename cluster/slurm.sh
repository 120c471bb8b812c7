#!/usr/bin/env bash
# A training as a Slurm job: Ray is started on the nodes of the job and ends with it. What stands after the name of
# this file is for `rtk train`:
#   sbatch --nodes=2 cluster/slurm.sh resnet18_cifar100_sure_plus train.workers=16 output=s3://BUCKET/runs
# `output` is a bucket or a folder that all nodes see. rtk and its environment's bin have to be in PATH.
#
# Five minutes before its time is over the run saves a checkpoint; the job is queued again and goes on from there.
#SBATCH --job-name=rtk
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

NODES=$SLURM_JOB_NUM_NODES
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
PORT=$((20000 + SLURM_JOB_ID % 20000))  # jobs that share a node have ports of their own
NAME="slurm-$SLURM_JOB_ID"               # the same after a requeue
OUTPUT=runs
for word in "$@"; do
  case $word in output=*) OUTPUT=${word#output=} ;; esac
done

# Whoever reaches Ray's ports may run anything: a token of this job's own.
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN HEAD PORT

# shellcheck disable=SC2016  # expanded on the nodes
srun --ntasks="$NODES" --ntasks-per-node=1 bash -c '
  if [ "$SLURM_NODEID" = 0 ]; then
    exec ray start --head --port="$PORT" --include-dashboard=false --disable-usage-stats --block
  fi
  until (exec 3<>"/dev/tcp/$HEAD/$PORT") 2>/dev/null; do sleep 1; done
  exec ray start --address="$HEAD:$PORT" --disable-usage-stats --block
' &
RAY=$!
trap 'kill "$RAY" 2>/dev/null || true' EXIT

export RAY_ADDRESS="$HEAD:$PORT"
until (exec 3<>"/dev/tcp/$HEAD/$PORT") 2>/dev/null; do sleep 1; done
python - "$NODES" <<'PYTHON'
import sys, time, ray

ray.init(log_to_driver=False, logging_level="ERROR")
while (up := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[1]):
    print(f"{up} of {sys.argv[1]} nodes are up", flush=True)
    time.sleep(5)
PYTHON

if [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then
  rtk train "$@" --name "$NAME" &
else
  rtk train --resume "$NAME" --output "$OUTPUT" &
fi
TRAINING=$!
trap 'kill -TERM "$TRAINING" 2>/dev/null || true' TERM

# A signal ends the first `wait`; the run is then still writing its checkpoint.
CODE=0
wait "$TRAINING" || CODE=$?
while kill -0 "$TRAINING" 2>/dev/null; do
  CODE=0
  wait "$TRAINING" || CODE=$?
done
if [ "$CODE" = 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$CODE"
