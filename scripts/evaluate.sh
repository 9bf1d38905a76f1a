#!/usr/bin/env bash
# Checks the checksum and the score of every file in params/: scripts/evaluate.sh [--data-dir DIR]
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
run_module reproduce verify "$@"
