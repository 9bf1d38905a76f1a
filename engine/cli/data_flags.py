"""The flags of the data sets, and the data sets that each flag is for."""
from support.errors import InputError

from ..recipe import CROP_RATIO, HALVINGS, INPUT_SIZE
from .flags import number, words

# Flags that only some data sets have, by their names in the parsed arguments.
IMAGES_FLAGS = ("input_size", "crop_ratio", "num_data_workers", "damaged")
IMAGENET_FLAGS = ("use_rec", "rec_val", "rec_val_idx", "count_padding", *IMAGES_FLAGS)
DATA_FLAGS = {"cifar10": ("mirror",), "cifar100": ("mirror", "label_mode"), "imagenet": IMAGENET_FLAGS,
              "folder": IMAGES_FLAGS}


def refuse_flags_of_others(parser, args, dataset):
    """End the script at a flag that means nothing for this data set."""
    for name in sorted({name for names in DATA_FLAGS.values() for name in names}):
        if getattr(args, name) is not None and name not in DATA_FLAGS.get(dataset, ()):
            owners = " and ".join(owner for owner, names in DATA_FLAGS.items() if name in names)
            flag = "-j" if name == "num_data_workers" else f"--{name.replace('_', '-')}"
            parser.error(f"{flag} is for {owners}, not for {dataset}; leave it out")


def add_data_flags(parser, dataset_help, datasets=("cifar10", "cifar100", "folder")):
    """The data: which set, where, with which labels."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", choices=datasets, help=dataset_help)
    group.add_argument("--data-dir", type=words, metavar="DIR", help="folder of the data (default "
                       "~/.mxnet/datasets/DATASET); CIFAR's official archive is downloaded there if it is missing; "
                       "--dataset folder needs train/ and val/ in DIR, each with a folder of images for each class")
    group.add_argument("--mirror", type=words, metavar="URL", help="folder to download the archive from")
    group.add_argument("--label-mode", choices=("fine", "coarse"), help="CIFAR-100: the 100 classes (fine), or the 20 "
                       "superclasses that the authors trained on (coarse, the default)")


def add_imagenet_flags(parser):
    """The data of train_imagenet.py: which set, where, and how the images are cut."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", choices=("imagenet", "folder"), help="imagenet (default), or folder: your own "
                       "images in --data-dir, in train/ and val/, each with a folder for each class")
    group.add_argument("--data-dir", type=words, metavar="DIR", help="folder with train/ and val/, or with the "
                       "record files (default ~/.mxnet/datasets/imagenet)")
    add_image_flags(group, "train", "val")


def add_image_flags(group, *splits, default="default"):
    """How ImageNet's pictures are read, from the record files of some splits too, and cut. default : as below."""
    group.add_argument("--use-rec", action="store_true", default=None, help="read record files, not a folder of images "
                       "for each class: rec/SPLIT.rec in --data-dir, or those that the next flags name")
    for split in splits:
        group.add_argument(f"--rec-{split}", type=words, metavar="FILE", help=f"record file of {split}")
        group.add_argument(f"--rec-{split}-idx", type=words, metavar="FILE", help="its index (default: beside it)")
    group.add_argument("--damaged", choices=("refuse", "skip"),
                       help="if an image cannot be read: stop and name it (default), or leave it out and name it")
    add_size_flags(group, default)


def add_size_flags(group, default="default"):
    """The sizes of ImageNet's pictures. default : what comes before the usual size in the help."""
    group.add_argument("--input-size", type=number(int, 32, 4096), metavar="S",
                       help=f"side of the images, a multiple of 32 ({default} {INPUT_SIZE})")
    group.add_argument("--crop-ratio", type=number(float, .01, 1), metavar="X", help="validation images: share of the "
                       f"shorter side that the square in the middle keeps ({default} {CROP_RATIO})")


def check_image_flags(args):
    """Raise InputError for values that contradict each other."""
    if args.input_size and args.input_size % HALVINGS:
        raise InputError(f"--input-size must be a multiple of {HALVINGS} (the nets halve it five times), not "
                         f"{args.input_size}")
    for split in ("train", "val"):
        if getattr(args, f"rec_{split}_idx", None) and not getattr(args, f"rec_{split}"):
            raise InputError(f"--rec-{split}-idx needs --rec-{split}")
