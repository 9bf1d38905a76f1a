#!/usr/bin/env bash
# Starts the workers of one training, here or over ssh, and supervises them (docs/DISTRIBUTED.md):
#   scripts/launch.sh -n WORKERS [-H HOSTFILE] -- train_imagenet.py --kvstore dist_sync_device ...
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$repository/.venv/bin/python
[ -x "$python" ] || python=python3
# PYTHONPATH rather than a change of folder: a relative path stays relative to the caller's. In this script's own process,
# so that a signal to the script reaches Python.
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m engine.launch "$@"
