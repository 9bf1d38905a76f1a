#!/usr/bin/env python3
"""Write a net for other programs, checked against the net itself.

    bash scripts/export.sh atac_resnet20_v2_b1_cifar10 --format onnx           # a name in params/manifest.json
    bash scripts/export.sh runs/NAME --format pt2 --out net.pt2                # a run's folder: its best.params
    bash scripts/export.sh FILE --format safetensors --model atac_resnet20_v2 --blocks 3 --dataset cifar10

Each file is loaded back by its own program and compared with the net on real pictures before it takes its place;
if the answers differ, nothing is written. pt2, safetensors and onnx need requirements-export.txt. evaluate.py --params
scores .onnx and .pt2 files. docs/EXPORT.md shows how to load each format.
"""
import os

from backend import exported
from engine.cli import export_flags, net_flags
from engine.cli.program import run_script
from model import registry
from support import runtime
from support.words import counted


def parse(argv=None):
    return export_flags.parse(__doc__, (registry.CIFAR, registry.IMAGENET), exported.FORMATS, argv)


def subject_of(parser, args):
    """The Subject (engine.cli.subject) of a command line, and a function that gives its logits."""
    from backend import choose, networks
    from engine.cli import subject

    found = subject.subject_of(parser, args, networks(), choose(on_gpu=False))
    scorer, _ = found.backend.scorer(found.net, found.devices, None)
    return found, scorer.logits


def images_of(subject, paths):
    """Images to compare on, float32 (N, 3, S, S), and what they are in words: pictures, or the sample's."""
    import numpy as np

    from backend.exported.write import images_wanted
    from engine.data import cifar
    from engine.evaluation import picture

    pixels, size = subject.data.pixels, subject.data.preprocessing.size
    if paths:
        return np.concatenate([picture(path, pixels) for path in paths]), counted(len(paths), "picture")
    pictures = cifar.sample_pictures(images_wanted(size))
    enlarged = f", enlarged to {size} x {size}" if size > cifar.SIDE else ""
    return np.concatenate([pixels(each) for each in pictures]), f"{len(pictures)} test images of CIFAR-10{enlarged}"


def main():
    parser, args = parse()
    runtime.prepare(torch=args.format != "symbol")  # before MXNet loads: it names a missing piece in a sentence
    exported.require(exported.FORMATS[args.format].packages, f"--format {args.format}")
    from backend.exported.about import About
    from backend.exported.write import write

    subject, reference = subject_of(parser, args)
    for remark in args.remarks:
        print(remark)
    print(f"{net_flags.net_text(subject.model, subject.arguments)}: {subject.recognised}", flush=True)
    net = subject.net
    if "torch" in exported.FORMATS[args.format].packages:
        from backend.exported.nets import module_of
        net = module_of(net)
    images, called = images_of(subject, args.images)
    paths, sentence = write(args.format, net, About.of(subject), images, called, reference, args.base)
    print(f"checked: {sentence}")
    for path in paths:
        print(f"{path}: {os.path.getsize(path):,} bytes")
    return 0


if __name__ == "__main__":
    run_script(main)
