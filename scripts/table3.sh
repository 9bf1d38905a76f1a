#!/usr/bin/env bash
# Table III: ReLU, SEActivation, NiN, LocalSENet and ATAC with b = 1 to 4, on CIFAR-10 and CIFAR-100:
# trains what is missing, renders and prints it. Start it again after any stop. scripts/table3.sh --help has the options.
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
run_module reproduce run table3 "$@"
