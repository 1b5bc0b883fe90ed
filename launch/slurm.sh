#!/usr/bin/env bash
# Trains a recipe on several machines under Slurm: one torchrun on each, one process for each GPU.
#
#   sbatch --nodes=4 launch/slurm.sh configs/wf4m_r50.py run.root=/shared/runs
#   sbatch --nodes=4 launch/slurm.sh configs/wf4m_r50.py run.root=/shared/runs --dry-run
#
# Submit it from the project's folder, which all machines see under one path, as they do the records and run.root.
# Words behind the recipe go to tools/train.py. From the environment, where set: PROCESSES (of a machine; the GPUs that
# Slurm gives), TORCHRUN (.venv/bin/torchrun), PORT (of the meeting point), MAX_RESTARTS (3).
#
# Five minutes before its time is up Slurm signals this script: the run finishes its update, writes a checkpoint and
# ends, the job is queued again, and goes on from there. A preempted job is queued again by Slurm itself.
#SBATCH --job-name=lrface
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=lrface_%j.log
set -u

if [ $# -eq 0 ]; then
    echo "usage: sbatch --nodes=N launch/slurm.sh RECIPE [section.setting=value ...] [--dry-run]" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:?this script is for sbatch}" || exit 2

nodes=$SLURM_JOB_NUM_NODES
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export PROCESSES=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}} MAX_RESTARTS=${MAX_RESTARTS:-3}
export TORCHRUN=${TORCHRUN:-$PWD/.venv/bin/torchrun}
export ENDPOINT=${hosts%%[[:space:]]*}:${PORT:-$((20000 + SLURM_JOB_ID % 10000))}
export MEETING=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((${SLURM_CPUS_PER_TASK:-$PROCESSES} / PROCESSES))}
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # with it a machine that comes late is let in
# NCCL and gloo find the network cards by themselves; where they take a wrong one, name it:
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0    and to see what is taken: export NCCL_DEBUG=INFO

stopped=""
stop() { # the workers get SIGTERM from Slurm: srun, where it gets one, kills them
    stopped=yes
    scancel --signal=TERM "$SLURM_JOB_ID"
}

srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 bash -c '
    [ "$SLURM_NODEID" -eq 0 ] && host=true || host=false
    exec "$TORCHRUN" --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$PROCESSES" --max-restarts="$MAX_RESTARTS" \
        --rdzv-backend=c10d --rdzv-id="$MEETING" --rdzv-endpoint="$ENDPOINT" --rdzv-conf="is_host=$host" \
        --local-addr="$SLURMD_NODENAME" tools/train.py "$@"' torchrun "$@" &
training=$!
trap stop USR1
trap : TERM # of a job that is cancelled or preempted: its workers get their own

wait "$training"
while kill -0 "$training" 2>/dev/null; do # a trap ends a wait, not what it waits for
    wait "$training"
done
wait "$training"
code=$?
if [ -n "$stopped" ] && [ "$code" -ne 0 ]; then
    echo "the time is up: job $SLURM_JOB_ID is queued again and goes on from its newest checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
