#!/usr/bin/env bash
# Figure 8: ResNet, SENet, GENet and ATAC-ResNet with b = 1 to 5, on CIFAR-10 and CIFAR-100:
# trains what is missing, renders and prints it. Start it again after any stop. scripts/fig8.sh --help has the options.
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
run_module reproduce run fig8 "$@"
