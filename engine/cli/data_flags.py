"""Which flags are for which data sets."""

# Flags of some data sets only, by their names in the parsed arguments.
IMAGES_FLAGS = ("input_size", "crop_ratio", "num_data_workers", "damaged")
IMAGENET_FLAGS = ("use_rec", "rec_val", "rec_val_idx", "count_padding", *IMAGES_FLAGS)
DATA_FLAGS = {"cifar10": ("mirror",), "cifar100": ("mirror", "label_mode"), "imagenet": IMAGENET_FLAGS,
              "folder": IMAGES_FLAGS}
FLAG_NAMES = {"num_data_workers": "-j"}


def _flag(name):
    return FLAG_NAMES.get(name, f"--{name.replace('_', '-')}")


def refuse_flags_of_others(parser, args, dataset):
    """End the script at a flag that means nothing for this data set."""
    for name in sorted({name for names in DATA_FLAGS.values() for name in names}):
        if getattr(args, name) is not None and name not in DATA_FLAGS.get(dataset, ()):
            owners = " and ".join(owner for owner, names in DATA_FLAGS.items() if name in names)
            parser.error(f"{_flag(name)} is for {owners}, not for {dataset}; leave it out")
