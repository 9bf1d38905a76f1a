#!/usr/bin/env bash
# ImageNet's official archives, or folders of images, to record files:
#   scripts/prepare_imagenet.sh --data-dir DIR
# Start it again after any stop: what is finished is not done anew. scripts/prepare_imagenet.sh --help has the options.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$repository/.venv/bin/python
[ -x "$python" ] || python=python3
"$python" -c 'import numpy, tqdm' 2>/dev/null || {
    echo "error: $python lacks NumPy or tqdm: run \`bash scripts/setup.sh\` first" >&2
    exit 1
}

# PYTHONPATH rather than a change of folder: relative paths stay relative to the caller's.
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m engine.prepare_imagenet "$@"
