#!/usr/bin/env bash
# Figure 8: ResNet, SENet, GENet and ATAC-ResNet with b = 1 to 5, on CIFAR-10 and CIFAR-100.
# Trains the missing runs, renders and prints the figure. Resume: start it again. Options: scripts/fig8.sh --help
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
run_module reproduce run fig8 "$@"
