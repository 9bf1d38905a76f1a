#!/usr/bin/env bash
# Figure 6: ATAC replaces ReLU from the last layer, site by site, or stage by stage (--only stagewise).
# Trains the missing runs, renders and prints the figure. Resume: start it again. Options: scripts/fig6.sh --help
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
run_module reproduce run fig6 "$@"
