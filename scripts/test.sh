#!/usr/bin/env bash
# Installs what is missing, then runs the linter and the tests. Arguments go to pytest: bash scripts/test.sh -k atac
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
cd "$repository"
bash scripts/setup.sh --dev --quiet
.venv/bin/python -m ruff check .
exec .venv/bin/python -m pytest "$@"
