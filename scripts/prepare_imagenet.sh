#!/usr/bin/env bash
# Makes record files from ImageNet's official archives or from folders of images:
#   scripts/prepare_imagenet.sh --data-dir DIR
# Resume: start it again; finished work is not repeated. Options: scripts/prepare_imagenet.sh --help
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
needs_packages

run_module engine.data.prepare_imagenet "$@"
