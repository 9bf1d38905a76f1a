#!/usr/bin/env bash
# Fetches the official CIFAR archives, with resume and checks:
#   scripts/download_cifar.sh [cifar10|cifar100|all] [--data-dir D] [--mirror URL] [--python-version]
# Without --data-dir they go to ~/.mxnet/datasets/<name>.
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
needs_packages

dataset=cifar10
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    dataset=$1
    shift
fi
run_module engine.data --download --dataset "$dataset" "$@"
