# Shared by slurm_train.sh and slurm_test.sh, which source it.

environment="GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=... PY_ARGS=...; CPUs: GPUS=0 NTASKS=N"

# Whether a word is a folder: not a flag, an override KEY=VALUE, or a config key.
is_folder() {
    [[ -n $1 && $1 != -* && $1 != *=* && ! $1 =~ ^[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+$ ]]
}

# run_on_slurm PARTITION JOB SCRIPT [ARGS ...]: one task for each GPU, or NTASKS tasks that compute on the CPU.
run_on_slurm() {
    local partition=$1 job=$2 script=$3 gpus=${GPUS:-8} per_node=${GPUS_PER_NODE:-8} tasks device=()
    shift 3
    local -a srun_args py_args
    read -r -a srun_args <<< "${SRUN_ARGS:-}"
    read -r -a py_args <<< "${PY_ARGS:-}"
    if [[ ! $gpus =~ ^[0-9]+$ || ! $per_node =~ ^[0-9]+$ ]]; then
        echo "error: GPUS is '$gpus' and GPUS_PER_NODE '$per_node'; both must be numbers" >&2
        exit 2
    fi
    if (( gpus == 0 || per_node == 0 )); then
        tasks=(--ntasks="${NTASKS:-1}")
        device=(--device cpu)
    else
        (( per_node <= gpus )) || per_node=$gpus
        tasks=(--gres="gpu:$per_node" --ntasks="$gpus" --ntasks-per-node="$per_node")
    fi
    exec srun --partition="$partition" --job-name="$job" "${tasks[@]}" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
        "${srun_args[@]}" "${PYTHON:-python}" -u "$script" "$@" --launcher slurm "${device[@]}" "${py_args[@]}"
}
