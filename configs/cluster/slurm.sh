#!/bin/bash
# sbatch configs/cluster/slurm.sh vtab task.root=DATA "task.name=[dtd, svhn, eurosat]"
#
# One search command on a Ray cluster of all nodes of the job, which ends with it. Submitted again, or when the time is
# up and the job is queued anew, the searches go on from where they stood. Runs on any nodes where `petlas` and `ray` are
# on the PATH; ports and folders are the job's own, so that several jobs may share a node.
#SBATCH --job-name=petlas
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(ray get-auth-token --generate 2> /dev/null)
export RAY_AUTH_TOKEN
PETLAS_HOST=$(hostname -I | cut -d ' ' -f 1)
PETLAS_PORT=$((20000 + SLURM_JOB_ID % 20000))
export PETLAS_HOST PETLAS_PORT

# On each node. The first one, where this script runs too, is the head.
# shellcheck disable=SC2329  # the tasks of srun call it
start_node() {
    local resources=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --block)
    if [ "$SLURM_NODEID" -eq 0 ]; then
        exec ray start --head --node-ip-address="$PETLAS_HOST" --port="$PETLAS_PORT" --include-dashboard=false \
            --temp-dir="/tmp/petlas-$SLURM_JOB_ID" "${resources[@]}"
    fi
    until (: < "/dev/tcp/$PETLAS_HOST/$PETLAS_PORT") 2> /dev/null; do sleep 1; done
    exec ray start --address="$PETLAS_HOST:$PETLAS_PORT" "${resources[@]}"
}
export -f start_node
srun --overlap --kill-on-bad-exit=0 bash -c start_node &
nodes=$!
trap 'kill "$nodes" 2> /dev/null || true; wait "$nodes" || true' EXIT

until ray status --address "$PETLAS_HOST:$PETLAS_PORT" > /dev/null 2>&1; do
    ((SECONDS < 300)) || { echo "Ray did not start in 300 s; what it said stands above" >&2; exit 1; }
    sleep 1
done

trap 'kill -TERM "$(jobs -p %petlas)" 2> /dev/null || exit 143' TERM # before it starts: no moment is without
petlas search "$@" "resources.address=$PETLAS_HOST:$PETLAS_PORT" &
driver=$!
status=0
wait "$driver" || status=$?
while kill -0 "$driver" 2> /dev/null; do # the signal ended `wait`, and not yet the driver
    status=0
    wait "$driver" || status=$?
done
if [ "$status" -eq 130 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
