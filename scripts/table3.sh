#!/usr/bin/env bash
# Table III: ReLU, SEActivation, NiN, LocalSENet and ATAC with b = 1 to 4, on CIFAR-10 and CIFAR-100.
# Trains the missing runs, renders and prints the table. Resume: start it again. Options: scripts/table3.sh --help
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
run_module reproduce run table3 "$@"
