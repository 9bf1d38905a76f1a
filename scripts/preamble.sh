# shellcheck shell=bash
# Every script here begins by reading this file, by the full path of itself that it leaves in `script`: the repository is
# found whatever the working folder, CDPATH and the links to the script are. Under another shell (`sh scripts/setup.sh`)
# the script starts again in bash.
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

# In the script's own process, so that a signal to the script reaches Python. PYTHONPATH rather than a change of folder:
# a relative path stays relative to the caller's.
run_module() {
    export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
    CALLED_AS=${0##*/} exec "$python" -m "$@"
}
