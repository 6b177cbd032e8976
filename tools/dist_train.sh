#!/usr/bin/env bash
# Train on NPROC processes of this machine, one for each GPU (on a machine without GPUs: on the CPU).
# On several machines run the same command on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail

if [[ $# -lt 2 || ! $2 =~ ^[0-9]+$ ]]; then
    echo "usage: [NNODES=N NODE_RANK=R MASTER_ADDR=HOST PORT=P] $0 CONFIG NPROC [ARGS of train.py ...]" >&2
    exit 2
fi
config=$1 nproc=$2
shift 2
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/train.py" "$config" --nproc "$nproc" --nnodes "${NNODES:-1}" \
    --node_rank "${NODE_RANK:-0}" ${MASTER_ADDR:+--master_addr "$MASTER_ADDR"} --master_port "${PORT:-0}" "$@"
