#!/usr/bin/env bash
# Starts the workers of one training, here or over ssh, and supervises them (docs/DISTRIBUTED.md):
#   scripts/launch.sh -n WORKERS [-H HOSTFILE] -- train_imagenet.py --kvstore dist_sync_device ...
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
run_module backend.launch "$@"
