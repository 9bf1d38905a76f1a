#!/usr/bin/env bash
# Table IV: the published ImageNet results beside the parameters and multiply-adds of the nets.
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
run_module reproduce table4 "$@"
