#!/usr/bin/env bash
# Installs what is missing, then runs the linter and the tests:
#   bash scripts/test.sh            all tests except the slow ones (tests/conftest.py lists them)
#   bash scripts/test.sh --all      all tests; more arguments go to pytest
#   bash scripts/test.sh -k atac    pytest chooses among all tests
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
cd "$repository"
two=(-n 2 --dist loadfile) # two processes; the tests of a file stay together
all=""
case ${1-} in
    "")
        printf 'the quick tests, about 4 minutes on 2 idle cores; all of them: bash scripts/test.sh --all\n'
        set -- "${two[@]}" -m "not slow"
        ;;
    --all)
        printf 'all tests, about 15 minutes on 2 idle cores\n'
        set -- "${two[@]}" "${@:2}"
        all=yes
        ;;
esac
bash scripts/setup.sh --dev --quiet
if [ -n "$all" ]; then # the tests of what cannot be installed here are skipped
    bash scripts/setup.sh --torch --quiet &&
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-export.txt ||
        printf 'PyTorch or the packages of the export cannot be installed here: their tests are skipped\n'
fi
.venv/bin/python -m ruff check .
exec .venv/bin/python -m pytest "$@"
