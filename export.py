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
from pathlib import Path

from backend import exported
from engine.cli import data_flags, flags, net_flags, subject_flags
from engine.cli.program import run_script
from model import registry
from support import runtime
from support.words import counted

HOSTS = registry.CIFAR, registry.IMAGENET
WEIGHTS = (".params", ".npz")  # endings of parameter files


def parse(argv=None):
    """(parser, parsed flags). args.base : the path of the files without their endings."""
    parser = flags.Parser(prog="export.py", description=__doc__)
    parser.add_argument("source", type=flags.words, metavar="NAME|FILE|RUN", help="weights of this repository by their "
                        "name in params/manifest.json, a parameter file, or a run's folder (its best.params)")
    parser.add_argument("--format", required=True, choices=tuple(exported.FORMATS),
                        help="; ".join(f"{name}: {known.words}" for name, known in exported.FORMATS.items()))
    parser.add_argument("--out", type=flags.words, metavar="PATH", help="the file, or a folder for it; for symbol "
                        "without -symbol.json and -0000.params (default: the source's name, in this folder)")
    parser.add_argument("--images", nargs="+", metavar="FILE", help="compare on these pictures (default: CIFAR-10's "
                        "first test images, which ship, enlarged if the net takes larger ones)")
    net_flags.add_net_flags(parser, *HOSTS, without=registry.IMAGENET.start)
    group = parser.add_argument_group("data of a file that is not ours")
    group.add_argument("--dataset", choices=tuple(data_flags.DATA_FLAGS), help="what it was trained on")
    group.add_argument("--label-mode", choices=("fine", "coarse"), help="its labels, for CIFAR-100 (default coarse)")
    group.add_argument("--data-dir", type=flags.words, metavar="DIR", help="for --dataset folder: the folder, whose "
                       "class folders name the classes")
    data_flags.add_size_flags(group, subject_flags.TRAINED)
    parser.set_defaults(gpus=(), params=None, pretrained=None, **{
        name: None for names in data_flags.DATA_FLAGS.values() for name in names if name not in (
            "label_mode", "input_size", "crop_ratio")})
    args = parser.parse_args(argv)
    if os.path.exists(args.source) or os.sep in args.source or args.source.endswith(WEIGHTS):
        args.params = args.source
    else:
        args.pretrained = args.source
    args.base = _base(parser, args, exported.FORMATS[args.format].endings)
    subject_flags.settle_net(parser, args, HOSTS)
    return parser, args


def _base(parser, args, endings):
    """The path that the endings follow."""
    out = args.out or ""
    if not out or os.path.isdir(out):
        name = Path(os.path.abspath(args.source)).name
        for ending in WEIGHTS:
            name = name[:-len(ending)] if name.endswith(ending) else name
        return os.path.join(out, name)
    base = next((out[:-len(ending)] for ending in endings if out.endswith(ending)), None)
    if base is None and len(endings) == 1:
        parser.error(f"--out {out}: a file of --format {args.format} ends in {endings[0]}")
    base = out if base is None else base
    if not os.path.basename(base):
        parser.error(f"--out {out}: name a file")
    if not os.path.isdir(os.path.dirname(os.path.abspath(base))):
        parser.error(f"--out {out}: that folder does not exist")
    return base


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
