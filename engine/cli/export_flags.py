"""The flags of export.py."""
import os
from pathlib import Path

from . import data_flags, evaluate_flags, flags, net_flags

WEIGHTS = (".params", ".npz")  # endings of parameter files


def parse(description, hosts, formats, argv=None):
    """(parser, parsed flags). hosts: as in evaluate_flags. formats : {name: Format} (backend.exported).

    args.base : the path of the files without their endings.
    """
    _, imagenet = hosts
    parser = flags.Parser(prog="export.py", description=description)
    parser.add_argument("source", type=flags.words, metavar="NAME|FILE|RUN", help="weights of this repository by their "
                        "name in params/manifest.json, a parameter file, or a run's folder (its best.params)")
    parser.add_argument("--format", required=True, choices=tuple(formats),
                        help="; ".join(f"{name}: {known.words}" for name, known in formats.items()))
    parser.add_argument("--out", type=flags.words, metavar="PATH", help="the file, or a folder for it; for symbol "
                        "without -symbol.json and -0000.params (default: the source's name, in this folder)")
    parser.add_argument("--images", nargs="+", metavar="FILE", help="compare on these pictures (default: CIFAR-10's "
                        "first test images, which ship, enlarged if the net takes larger ones)")
    net_flags.add_net_flags(parser, *hosts, without=imagenet.start)
    group = parser.add_argument_group("data of a file that is not ours")
    group.add_argument("--dataset", choices=tuple(data_flags.DATA_FLAGS), help="what it was trained on")
    group.add_argument("--label-mode", choices=("fine", "coarse"), help="its labels, for CIFAR-100 (default coarse)")
    group.add_argument("--data-dir", type=flags.words, metavar="DIR", help="for --dataset folder: the folder, whose "
                       "class folders name the classes")
    evaluate_flags.add_size_flags(group)
    parser.set_defaults(gpus=(), params=None, pretrained=None, **{
        name: None for names in data_flags.DATA_FLAGS.values() for name in names if name not in (
            "label_mode", "input_size", "crop_ratio")})
    args = parser.parse_args(argv)
    if os.path.exists(args.source) or os.sep in args.source or args.source.endswith(WEIGHTS):
        args.params = args.source
    else:
        args.pretrained = args.source
    args.base = _base(parser, args, formats[args.format].endings)
    evaluate_flags.settle_net(parser, args, hosts)
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
