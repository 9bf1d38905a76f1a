"""From ImageNet's official archives, or folders of images, to record files.

    python -m engine.data.prepare_imagenet --data-dir DIR

    DIR/ILSVRC2012_img_train.tar   -> DIR/train/CLASS/*.JPEG -> DIR/rec/train.rec, .idx, .lst
    DIR/ILSVRC2012_img_val.tar     -> DIR/val/CLASS/*.JPEG   -> DIR/rec/val.rec, .idx, .lst
                                                                DIR/rec/synset.txt, the class names by label

Every stage writes under a name that ends in .part and renames it when it is whole. So the same command, started again
after any stop, does not repeat a finished stage; each class of the training archive is a stage. Without --resize the
images are packed as they are: the authors' recipe takes its random crops from the full size. Smaller images are faster
to read, but their crops have fewer pixels, compressed twice.
"""
import argparse
import sys

from engine.cli.flags import Parser, number
from engine.cli.program import clean_up_at_interrupt, run_script
from support.errors import InputError
from support.files import expanded
from support.lock import locked
from support.threads import usable_cores

from . import image_batches, imagenet
from .class_folders import classes, listing
from .class_names import NAMES_FILE, read_names, write_names
from .dataset import root_of
from .image_sources import Folders
from .imagenet_archives import DEVKIT, read_labels, sort_val, unpack_train, unpack_val
from .pack_records import pack_stage

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}


def _image_folder(args, split, root):
    """The folder of a split's class folders, after unpacking its archive; None if there is neither."""
    given = getattr(args, split)
    path = expanded(given) if given else root / ARCHIVES[split]
    folder = path if path.is_dir() else root / split
    if not path.is_file() and not folder.is_dir():
        if given:
            raise InputError(f"--{split} {given}: there is no such archive or folder")
        return None
    if split == "train":
        if path.is_file():
            unpack_train(path, folder)
    elif not folder.is_dir():
        unpack_val(path, _val_labels(args, root, path), folder)
    elif listing(folder).images:
        sort_val(folder, _val_labels(args, root, folder))
    return folder


def _val_labels(args, root, images):
    """The labels of an archive or a folder of validation images."""
    labels = expanded(args.val_labels) if args.val_labels else root / DEVKIT
    if not args.val_labels and not labels.is_file():
        raise InputError(f"{images} has images without classes: put {DEVKIT} into {root}, or give its labels with "
                         "--val-labels FILE, a text file with a WordNet id on each line")
    return read_labels(labels, classes(root / "train") if (root / "train").is_dir() else ())


def prepare(args):
    """Do what the command line asks, and print each stage."""
    root = root_of("imagenet", args.data_dir or None)
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / ".prepare.lock", f"another preparation is at work in {root}: wait for it"):
        found = {split: _image_folder(args, split, root) for split in args.splits}
        for split, folder in found.items():
            if folder is None:
                print(f"no {split} images: neither {root / ARCHIVES[split]} nor {root / split} is there")
        found = {split: folder for split, folder in found.items() if folder is not None}
        if not found:
            raise InputError(f"there is nothing to prepare in {root}: put the official archives there, or name "
                             "archives or folders with --train and --val")
        # The training folders give the labels of both splits.
        train = found.get("train") or (root / "train" if (root / "train").is_dir() else None)
        names = imagenet.class_order(train, found.get("val"))
        sources = {split: Folders(folder, names) for split, folder in found.items()}
        for split, source in sources.items():
            print(f"{split}: {len(source):,} images (officially {imagenet.OFFICIAL_COUNTS[split]:,}) of "
                  f"{len(set(source.labels.tolist())):,} classes in {source.description}", flush=True)
        if args.folders_only:
            return
        records = root / "rec"
        records.mkdir(exist_ok=True)
        listed = records / NAMES_FILE
        there = read_names(listed) if listed.exists() and listed.stat().st_size else None
        if there is None:
            write_names(listed, names)
        elif there != names:
            raise InputError(f"{listed} has other classes than {train or found['val']}: remove {records} to make its "
                             "files again, or choose another --data-dir")
        for split, source in sources.items():
            print(pack_stage(source, records, split, args.resize, args.quality or 95, args.threads, args.damaged),
                  flush=True)


def _splits(text):
    splits = tuple(part.strip() for part in text.split(",") if part.strip())
    if not splits or any(split not in imagenet.SPLITS for split in splits):
        raise argparse.ArgumentTypeError(f"{text!r} is not train, val or train,val")
    return splits


def _parser():
    parser = Parser(prog="prepare_imagenet.sh", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the archives or class folders, and of all output "
                        "(default ~/.mxnet/datasets/imagenet)")
    parser.add_argument("--train", metavar="PATH", help=f"archive or folder of class folders (default "
                        f"DIR/{ARCHIVES['train']}, else DIR/train)")
    parser.add_argument("--val", metavar="PATH", help=f"archive or folder of class folders (default "
                        f"DIR/{ARCHIVES['val']}, else DIR/val); images side by side in a folder are moved into class "
                        "folders there")
    parser.add_argument("--val-labels", metavar="FILE", help="classes of the validation images: a text file with a "
                        "WordNet id on each line, in the order of the images' names, Kaggle's LOC_val_solution.csv, or "
                        f"the development kit (default DIR/{DEVKIT})")
    parser.add_argument("--splits", type=_splits, default=imagenet.SPLITS, metavar="S,S",
                        help="train,val (default), or one of them")
    parser.add_argument("--folders-only", action="store_true", help="unpack the archives and write no record files")
    parser.add_argument("--resize", type=number(int, 1, 10_000), default=0, metavar="N", help="make the shorter side N "
                        "pixels (larger or smaller) and compress them again (default: the files as they are)")
    parser.add_argument("--quality", type=number(int, 1, 100), metavar="Q",
                        help="quality of the JPEGs with --resize (default 95)")
    parser.add_argument("--threads", type=number(int, 1, 1024), default=usable_cores(), metavar="N",
                        help="threads that read or compress images (default: one for each core, %(default)s)")
    parser.add_argument("--damaged", choices=image_batches.DAMAGED, default="refuse",
                        help="stop at a damaged image, or leave it out and name it (default %(default)s)")
    return parser


def main(argv=None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.quality and not args.resize:
        parser.error("--quality goes with --resize: without it the files are packed as they are")
    clean_up_at_interrupt()
    try:
        prepare(args)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = error.filename or root_of("imagenet", args.data_dir or None)
        print(f"{parser.prog}: {place}: {error.strerror}; what is finished stays, run this again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is finished stays, run this again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    run_script(main)
