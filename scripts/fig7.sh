#!/usr/bin/env bash
# Figure 7: ReLU, SELU, Swish, xUnit and ATAC with b = 1 to 5; --extras adds GELU and PReLU:
# trains what is missing, renders and prints it. Start it again after any stop. scripts/fig7.sh --help has the options.
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
run_module reproduce run fig7 "$@"
