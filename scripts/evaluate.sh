#!/usr/bin/env bash
# Hold every file in params/ to its checksum and its score: scripts/evaluate.sh [--data-dir DIR]
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
run_module reproduce verify "$@"
