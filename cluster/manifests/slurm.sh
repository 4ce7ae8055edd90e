#!/bin/bash
# A metaray command on the nodes of a Slurm allocation, with a Ray cluster that is there for as long as the command:
#   sbatch --nodes=4 cluster/manifests/slurm.sh train --name first tune_configs/sinusoid.yaml cluster.workers=16
# Before the time is over Slurm warns the command, which saves and leaves; the job is queued again, and with --name it goes on.
#SBATCH --job-name=metaray
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if (($# == 0)); then
    echo "error: expected a metaray command, received none; for example: sbatch $0 train --name first CONFIG" >&2
    exit 2
fi

# Other users' jobs on the same nodes have other ports, and another token.
port=$((20000 + SLURM_JOB_ID % 10000))
export RAY_AUTH_MODE=token RAY_worker_niceness=0 RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
read -r ip _ < <(srun --overlap --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address)
export RAY_ADDRESS="$ip:$port"
ray_files="${RAY_TMPDIR:-/tmp}/ray-$SLURM_JOB_ID"

srun --overlap --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" ray start --head --block --node-ip-address="$ip" \
    --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --temp-dir="$ray_files" --include-dashboard=false \
    --disable-usage-stats &
ray_steps=($!)
trap 'kill "${ray_steps[@]}" 2>/dev/null || true; wait; rm -rf "$ray_files"' EXIT

for node in "${nodes[@]:1}"; do
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" ray start --block --address="$RAY_ADDRESS" \
        --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats &
    ray_steps+=($!)
done

deadline=$((SECONDS + 300))
until ray status --address "$RAY_ADDRESS" >/dev/null 2>&1; do
    if ((SECONDS > deadline)) || ! kill -0 "${ray_steps[0]}"; then
        echo "error: expected a Ray head node at $RAY_ADDRESS within 300 s; see its messages above" >&2
        exit 1
    fi
    sleep 1
done

stopped=false
metaray "$@" cluster.address="$RAY_ADDRESS" &
command=$!
trap 'stopped=true; kill -TERM "$command"' TERM
status=0
wait "$command" || status=$?
if $stopped; then
    wait "$command" || true # the first wait ended with the signal
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
