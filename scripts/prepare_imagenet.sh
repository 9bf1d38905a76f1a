#!/usr/bin/env bash
# ImageNet's official archives, or folders of images, to record files:
#   scripts/prepare_imagenet.sh --data-dir DIR
# Start it again after any stop: what is finished is not done anew. scripts/prepare_imagenet.sh --help has the options.
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
needs_packages

run_module engine.data.prepare_imagenet "$@"
