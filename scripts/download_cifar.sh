#!/usr/bin/env bash
# Fetch the official CIFAR archives, resumed and checked:
#   scripts/download_cifar.sh [cifar10|cifar100|all] [--data-dir D] [--mirror URL] [--python-version]
# Without --data-dir they go to ~/.mxnet/datasets/<name>.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$repository/.venv/bin/python
[ -x "$python" ] || python=python3
"$python" -c 'import numpy, tqdm' 2>/dev/null || {
    echo "error: $python lacks NumPy or tqdm: run \`bash scripts/setup.sh\` first" >&2
    exit 1
}

dataset=cifar10
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    dataset=$1
    shift
fi
# PYTHONPATH rather than a change of folder: a relative --data-dir stays relative to the caller's.
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
CALLED_AS=${0##*/} exec "$python" -m engine.cifar --download --dataset "$dataset" "$@"
