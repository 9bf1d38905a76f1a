#!/usr/bin/env bash
# Figure 7: ReLU, SELU, Swish, xUnit and ATAC with b = 1 to 5; --extras adds GELU and PReLU.
# Trains the missing runs, renders and prints the figure. Resume: start it again. Options: scripts/fig7.sh --help
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
run_module reproduce run fig7 "$@"
