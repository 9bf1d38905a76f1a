#!/usr/bin/env bash
# Fetches the weights of params/manifest.json that do not ship with the repository, with resume and checks:
#   scripts/download_params.sh [NAME|all] [--list] [--mirror URL or path of a folder or file]
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
run_module reproduce download "$@"
