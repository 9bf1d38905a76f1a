#!/usr/bin/env bash
# Run this first: it installs, evaluates the shipped network on real CIFAR-10 images, trains a small one and plots it.
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit

usage() {
    cat <<'END'
usage: bash scripts/quickstart.sh [--offline] [--data-dir DIR]

Installs into .venv (scripts/setup.sh), evaluates the ATAC network of params/ on the CIFAR-10 test images, trains a
network from scratch for a few minutes and evaluates it. The log, checkpoints and history.png go to a folder in runs/.

  --offline       do not download CIFAR-10. Without this flag the official archive (162 MB) is fetched; if that fails,
                  the real sample in data/cifar10-sample is used
  --data-dir DIR  folder of CIFAR-10, or where to download it (default ~/.mxnet/datasets/cifar10)
END
}

offline="" data_dir="${MXNET_HOME:-$HOME/.mxnet}/datasets/cifar10"
while [ $# -gt 0 ]; do
    case $1 in
        --offline) offline=yes ;;
        --data-dir)
            [ -n "${2:-}" ] || { echo "error: --data-dir needs a folder" >&2; exit 2; }
            data_dir=$(realpath -ms "$2")
            shift
            ;;
        -h | --help) usage && exit 0 ;;
        *)
            echo "error: unknown argument '$1'; the flags are --offline, --data-dir and --help" >&2
            exit 2
            ;;
    esac
    shift
done

cd "$repository"
say() { printf '\n== %s\n' "$*"; }

say "1/4 Installing"
bash scripts/setup.sh
python=.venv/bin/python

say "2/4 CIFAR-10"
data=data/cifar10-sample
count() { # the number of training images in a folder; fails if there are none
    "$python" -c 'import sys; from engine.data import cifar; print(len(cifar.load("cifar10", sys.argv[1]).train))' "$1" 2>/dev/null
}
if count "$data_dir" >/dev/null || { [ -z "$offline" ] &&
    bash scripts/download_cifar.sh cifar10 --data-dir "$data_dir" --timeout 10 --attempts 2; }; then
    data=$data_dir
    echo "using $data"
else
    echo "using the real sample that ships with this repository ($data): the first 3,500 training and 1,017 test images"
    echo "of CIFAR-10, lossless. They are far too few to train a good network, but enough to see that everything works."
fi
# About 50,000 images in all: one epoch of CIFAR-10, or ten of the sample.
images=$(count "$data")
epochs=$((images >= 50000 ? 1 : images <= 5000 ? 10 : 50000 / images))
batch=$((images >= 50000 ? 128 : 64))

shipped='import json; print(*[entry["file"] for entry in json.load(open("params/manifest.json"))["models"]
               if entry["dataset"] == "cifar10" and not entry["urls"]][:1])'
checkpoint=$("$python" -c "$shipped")
say "3/4 Evaluating the shipped network (params/$checkpoint)"
"$python" evaluate.py --params "params/$checkpoint" --data-dir "$data"

run=runs/quickstart
number=2
while [ -e "$run" ]; do
    run=runs/quickstart-$number
    number=$((number + 1))
done
say "4/4 Training an ATAC network with one block per stage, $epochs epoch(s)"
"$python" train_cifar.py --model atac_resnet20_v2 --blocks 1 --recipe scaled --num-epochs "$epochs" --batch-size "$batch" \
    --lr 0.1 --data-dir "$data" --save-dir "$run" --log-interval 20
"$python" evaluate.py --params "$run/last.params" --data-dir "$data"

say "Done"
echo "the run:           $run (train.log, metrics.jsonl, last.params, best.params)"
echo "its history plot:  $run/history.png"
echo "next:              README.md says how to train the paper's networks with the paper's recipe"
