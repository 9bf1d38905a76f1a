"""The flags of a parameter file, its net and its data, for evaluate.py and visualize.py."""
import os

from support.errors import InputError

from . import data_flags, flags, net_flags

TRAINED = "default: what the file was trained with, or"


def add_subject_flags(parser, hosts):
    """The flags of a parameter file, its net, its data and where it runs; returns the group of the last ones.

    hosts: CIFAR and IMAGENET of model.registry.
    """
    _, imagenet = hosts
    parser.add_argument("--params", type=flags.words, metavar="FILE", help="the weights; for a run's folder its "
                        "best.params; or a .onnx or .pt2 file of scripts/export.sh (from a .pt2, PyTorch may run code: "
                        "take only files that you trust)")
    parser.add_argument("--pretrained", type=flags.words, metavar="NAME",
                        help="instead of --params: weights of this repository, by their name in params/manifest.json")
    net_flags.add_net_flags(parser, *hosts, without=imagenet.start)
    data_flags.add_data_flags(parser, "default: what the file was trained on",
                              ("cifar10", "cifar100", "imagenet", "folder"))
    group = parser.add_argument_group("data of ImageNet")
    data_flags.add_image_flags(group, "val", default=TRAINED)
    group.add_argument("-j", "--num-data-workers", "--num-workers", type=flags.number(int, 0, flags.MOST_THREADS),
                       metavar="N", help="threads that read images ahead (default: one for each core)")
    group.add_argument("--count-padding", action="store_true", default=None,
                       help="count as the authors' record iterator does, in full batches with padding: their 21.41%% "
                       "is for 49,920 images, in batches of 256")
    group = parser.add_argument_group("run")
    flags.add_device_flags(group)
    group.add_argument("--batch-size", type=flags.number(int, 1), metavar="N",
                       help="default 250; for ImageNet 32 on a CPU, 128 on a GPU, and 256 with --count-padding")
    return group


def check_subject_flags(parser, args, hosts):
    """Check the flags of add_subject_flags together, with settle_net. A wrong flag ends the process."""
    if (args.params is None) == (args.pretrained is None):
        parser.error("one of these is required: --params or --pretrained")
    if args.count_padding and args.damaged == "skip":
        parser.error("--count-padding and --damaged skip exclude each other: the authors' iterator leaves nothing out")
    if args.dataset:
        data_flags.refuse_flags_of_others(parser, args, args.dataset)
    settle_net(parser, args, hosts)


def settle_net(parser, args, hosts):
    """Turn the flags of the net into args.net_name, net_arguments and remarks. A wrong flag ends the process."""
    _, imagenet = hosts
    try:
        data_flags.check_image_flags(args)
        if args.dataset == "imagenet":
            args.model = net_flags.full_name(args.model, imagenet)
        args.net_name, args.net_arguments, args.remarks = net_flags.net_arguments(args, *hosts)
    except InputError as error:
        parser.error(str(error))


def check_output(parser, flag, path):
    """End the process unless a file can be made at the path that a flag gives."""
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        parser.error(f"{flag} {path}: that folder does not exist")
    if os.path.isdir(path):
        parser.error(f"{flag} {path}: it is a folder; name a file in it")
