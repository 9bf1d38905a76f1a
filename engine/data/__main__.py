"""Show which data are present and how fast they become batches, or download them.

    python -m engine.data --dataset cifar10              # the data, and images/s of the pipeline alone
    python -m engine.data --dataset cifar10 --download   # fetch the official archive first
    python -m engine.data --dataset imagenet --data-dir DIR
    python -m engine.data --dataset folder --data-dir DIR --input-size 32
"""
import itertools
import statistics
import time

import numpy as np

from engine.cli import flags
from engine.cli.program import run_script
from engine.data import cifar, cifar_files, sets
from engine.data.class_folders import SPLITS
from engine.data.image_batches import DAMAGED
from engine.data.image_batches import TrainBatches as ImageBatches
from engine.data.in_memory import TrainBatches
from engine.recipe import INPUT_SIZE


def measure(batches, workers=0, seconds=3.0, repeats=5):
    """Images/s of training batches alone: the median of `repeats` measurements, over `seconds` in all."""
    stream = itertools.chain.from_iterable(batches.epoch(index, workers=workers) for index in itertools.count())
    next(stream)
    speeds = []
    for _ in range(repeats):
        images, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds / repeats or not images:
            images += len(next(stream)[1])
        speeds.append(images / (time.perf_counter() - began))
    return statistics.median(speeds)


def _parser():
    parser = flags.Parser(prog=flags.program("python -m engine.data"), description=__doc__)
    parser.add_argument("--dataset", choices=[*cifar_files.SETS, "all", "imagenet", "folder"], default="cifar10",
                        help="all: both CIFAR sets (default cifar10)")
    parser.add_argument("--data-dir", type=flags.words, help="folder of the data (default: ~/.mxnet/datasets/DATASET)")
    parser.add_argument("--seconds", type=flags.number(float, 0, 86400), default=3.0,
                        help="how long to measure (default: 3; 0: not at all)")
    parser.add_argument("--batch-size", type=flags.number(int, 1, 100_000), help="default 128; for ImageNet 64")
    parser.add_argument("--workers", type=flags.number(int, 0, 1024), default=0,
                        help="threads that make batches ahead (default: 0)")
    group = parser.add_argument_group("CIFAR")
    group.add_argument("--label-mode", choices=["fine", "coarse"], help="labels of CIFAR-100 (default: coarse)")
    group.add_argument("--download", action="store_true", help="fetch the official archive and stop")
    group.add_argument("--mirror", type=flags.words, metavar="URL",
                       help=f"folder to fetch from (default: {cifar_files.BASE_URL})")
    group.add_argument("--python-version", action="store_true", help="fetch the python archive, not the binary one")
    group.add_argument("--timeout", type=flags.number(float, 0.001, 86400), default=30.0,
                       help="seconds of silence allowed (default: 30)")
    group.add_argument("--attempts", type=flags.number(int, 1, 1000), default=4,
                       help="tries after lost connections (default: 4)")
    group = parser.add_argument_group("ImageNet and folders of images")
    group.add_argument("--use-rec", action="store_true", help="read the record files, not the class folders")
    group.add_argument("--split", choices=SPLITS, help="only this one")
    group.add_argument("--input-size", type=flags.number(int, 1, 10_000), default=INPUT_SIZE,
                       help="side of the images (default: %(default)s)")
    group.add_argument("--damaged", choices=DAMAGED, default="refuse",
                       help="stop at a damaged image, or leave it out and name it (default: %(default)s)")
    return parser


def main(argv=None):
    parser = _parser()
    args = parser.parse_args(argv)
    if args.label_mode and args.dataset != "cifar100":
        parser.error("--label-mode is for cifar100: the other data sets have one kind of label")
    if not args.download and (args.mirror or args.python_version):
        parser.error("--mirror and --python-version go with --download")
    names = list(cifar_files.SETS) if args.dataset == "all" else [args.dataset]
    if args.download and not set(names) <= set(cifar_files.SETS):
        parser.error(f"{args.dataset} cannot be downloaded; docs/IMAGENET.md says how to get ImageNet")
    for name in names:
        if args.download:
            path = cifar.download(name, args.data_dir, args.mirror, "python" if args.python_version else "binary",
                                  timeout=args.timeout, attempts=args.attempts)
            print(f"{name}: the official archive is {path}")
        elif name in cifar_files.SETS:
            show_cifar(name, args)
        else:
            show_images(name, args)


def show_cifar(name, args):
    data = cifar.load(name, args.data_dir, args.label_mode)
    mode = f", {data.label_mode} labels" if data.label_mode else ""
    print(f"{name}{mode}: {data.variant}")
    print(f"sha256 {data.provenance['sha256']}")
    print(f"{len(data.train):,} training and {len(data.test):,} test images, {len(data.class_names)} classes")
    counts = [np.bincount(split.labels, minlength=len(data.class_names)) for split in (data.train, data.test)]
    for class_name, train, test in zip(data.class_names, *counts):
        print(f"  {class_name:32}{train:7,}{test:7,}")
    if args.seconds > 0:
        batch = min(args.batch_size or 128, len(data.train))
        tell_speed("pipeline alone", TrainBatches(data.train, batch, 0), batch, args)


def show_images(name, args):
    need = (args.split,) if args.split else SPLITS
    data = sets.of(name, args).load(need)
    print(f"{'ImageNet' if name == 'imagenet' else args.data_dir}: {data.variant}")
    print(f"sha256 {data.provenance['sha256']} (of the lists of images)")
    for split in need:
        source = getattr(data, split)
        source.check(args.damaged)
        print(f"{split}: {len(source):,} images of {len(data.class_names):,} classes in {source.description}")
    if args.seconds > 0:
        source = data.train or data.val
        batch = min(args.batch_size or 64, len(source))
        for jitter in (.4, 0):
            tell_speed(f"pipeline alone, {'with' if jitter else 'without'} colour jitter",
                       ImageBatches(source, batch, 0, args.input_size, jitter, damaged=args.damaged), batch, args)


def tell_speed(what, batches, batch, args):
    speed = measure(batches, args.workers, args.seconds)
    print(f"{what}: {speed:,.0f} images/s (batch {batch}, {args.workers} workers)")


if __name__ == "__main__":
    run_script(main)
