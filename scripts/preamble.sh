# shellcheck shell=bash
# Every script here first puts its own full path into `script` and reads this file. So the repository is found with any
# working folder, CDPATH and link to the script. In another shell (`sh scripts/setup.sh`) the script starts again in bash.
[ -n "${BASH_VERSION:-}" ] || exec bash "$script" "$@"
set +o posix
set -euo pipefail
unset CDPATH

repository=${script%/scripts/*}
python=$repository/.venv/bin/python
[ -x "$python" ] || python=python3

needs_packages() {
    "$python" -c 'import numpy, tqdm' 2>/dev/null || {
        echo "error: $python lacks NumPy or tqdm: run \`bash scripts/setup.sh\` first" >&2
        exit 1
    }
}

# exec, so that a signal to the script reaches Python. PYTHONPATH instead of a change of folder, so that relative paths
# stay relative to the caller's folder.
run_module() {
    export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
    CALLED_AS=${0##*/} exec "$python" -m "$@"
}
