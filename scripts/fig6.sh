#!/usr/bin/env bash
# Figure 6: ReLU replaced by ATAC site by site, and stage by stage (--only stagewise), from the last layer:
# trains what is missing, renders and prints it. Start it again after any stop. scripts/fig6.sh --help has the options.
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
run_module reproduce run fig6 "$@"
