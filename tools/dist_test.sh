#!/usr/bin/env bash
# Test on NPROC processes of this machine, one for each GPU (on a machine without GPUs: on the CPU).
# On several machines run the same command on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail

if [[ $# -lt 3 || ! $3 =~ ^[0-9]+$ ]]; then
    echo "usage: [NNODES=N NODE_RANK=R MASTER_ADDR=HOST PORT=P] $0 CONFIG CHECKPOINT NPROC [ARGS of test.py ...]" >&2
    exit 2
fi
config=$1 checkpoint=$2 nproc=$3
shift 3
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/test.py" "$config" "$checkpoint" --nproc "$nproc" --nnodes "${NNODES:-1}" \
    --node_rank "${NODE_RANK:-0}" ${MASTER_ADDR:+--master_addr "$MASTER_ADDR"} --master_port "${PORT:-0}" "$@"
