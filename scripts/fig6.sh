#!/usr/bin/env bash
# Figure 6: ReLU replaced by ATAC site by site, and stage by stage (--only stagewise), from the last layer:
# trains what is missing, renders and prints it. Start it again after any stop. scripts/fig6.sh --help has the options.
source "$(dirname "${BASH_SOURCE[0]}")/reproduce.sh"
reproduce run fig6 "$@"
