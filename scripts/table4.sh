#!/usr/bin/env bash
# Table IV: the published ImageNet results beside the parameters and multiply-adds of the nets.
source "$(dirname "${BASH_SOURCE[0]}")/reproduce.sh"
reproduce table4 "$@"
