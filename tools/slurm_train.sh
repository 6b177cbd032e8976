#!/usr/bin/env bash
# Train on a Slurm cluster: one task for each GPU.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
tools=$(dirname "${BASH_SOURCE[0]}")
source "$tools/misc/slurm.sh"

if (( $# < 3 )); then
    echo "usage: [$environment] $0 PARTITION JOB CONFIG [WORK_DIR] [ARGS of train.py ...]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3 folder=()
shift 3
case ${1:-} in *.pth | *.pt | *.safetensors)
    echo "error: $1 is a checkpoint, but WORK_DIR comes after CONFIG. To test it: slurm_test.sh; to start from it: --load-from $1" >&2
    exit 2 ;;
esac
if is_folder "${1:-}"; then
    folder=(--work-dir "$1")
    shift
fi
run_on_slurm "$partition" "$job" "$tools/train.py" "$config" "${folder[@]}" "$@"
