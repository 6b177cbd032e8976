#!/usr/bin/env bash
# Test on a Slurm cluster: one task for each GPU.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
tools=$(dirname "${BASH_SOURCE[0]}")
source "$tools/misc/slurm.sh"

if (( $# < 4 )); then
    echo "usage: [$environment] $0 PARTITION JOB CONFIG CHECKPOINT [WORK_DIR] [ARGS of test.py ...]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3 checkpoint=$4 folder=()
shift 4
if is_folder "${1:-}"; then
    folder=(--work-dir "$1")
    shift
fi
run_on_slurm "$partition" "$job" "$tools/test.py" "$config" "$checkpoint" "${folder[@]}" "$@"
