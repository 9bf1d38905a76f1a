#!/usr/bin/env bash
# Writes a net for other programs, checked against the Gluon net:
#   scripts/export.sh NAME|FILE|RUN --format pt2|safetensors|onnx|symbol [--out PATH]
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit
exec "$python" "$repository/export.py" "$@"
