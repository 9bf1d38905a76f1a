#!/usr/bin/env bash
# Hold every file in params/ to its checksum and its score: scripts/evaluate.sh [--data-dir DIR]
source "$(dirname "${BASH_SOURCE[0]}")/reproduce.sh"
reproduce verify "$@"
