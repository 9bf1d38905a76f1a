# shellcheck shell=bash
# Sourced by the scripts of the tables and figures: finds Python and the repository.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$repository/.venv/bin/python
[ -x "$python" ] || python=python3

# In the script's own process, so that a signal to the script reaches Python. PYTHONPATH rather than a change of folder:
# a relative path stays relative to the caller's.
reproduce() {
    export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
    CALLED_AS=${0##*/} exec "$python" -m reproduce "$@"
}
