"""A folder with a folder of images for each class: its content, and advice if it is arranged in another way."""
import os
from pathlib import Path
from typing import List, NamedTuple, Tuple

from engine.data.class_names import SYNSETS, check_names
from support.errors import InputError

SPLITS = ("train", "val")
EXTENSIONS = (".jpeg", ".jpg", ".png")  # of images in a class folder, in upper or lower case
PREPARE = "bash scripts/prepare_imagenet.sh --data-dir"
ARRANGE = (f"{PREPARE} DIR unpacks ImageNet's official archives into class folders, and with --val-labels FILE sorts "
           "validation images into theirs")

# Ignored, like every hidden file: folders that macOS's archives, a NAS and a file system's root contain.
_NOBODYS = ("__MACOSX", "@eaDir", "lost+found")


class Listing(NamedTuple):
    """Names in a folder, sorted."""

    folders: List[str]
    images: List[str]  # by their names; some may be broken links, pipes and so on
    dead: List[str]  # other broken links


def listing(directory) -> Listing:
    """The content of a folder, without hidden names and folders of an unfinished extraction. Raises InputError."""
    found = Listing([], [], [])
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") or name in _NOBODYS:
                    continue
                if _is_folder(entry):
                    if not name.endswith(".part") and not _of_records(name, entry.path):
                        found.folders.append(name)
                elif name.lower().endswith(EXTENSIONS):
                    found.images.append(name)
                elif entry.is_symlink() and not os.path.exists(entry.path):
                    found.dead.append(name)
    except OSError as error:
        raise InputError(f"cannot read the folder {directory}: {error.strerror}") from None
    for names in found:
        names.sort()
    return found


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to a place without permission
        return False


def _of_records(name, path):
    """Whether it is the folder of record files, which may lie beside class folders."""
    return name == "rec" and any(Path(path).glob("*.rec"))


def classes(directory) -> List[str]:
    """Names of the class folders, sorted; [] if there are none. Raises InputError if some images have no class.

    It also raises InputError for a broken link: if that was a class, every later label would change.
    """
    found = listing(directory)
    if found.dead:
        raise InputError(f"{Path(directory) / found.dead[0]} is a broken link, which may have been a class: mend or "
                         "remove it")
    if found.folders and found.images:
        raise InputError(f"{directory} has {len(found.images):,} image(s) beside its class folders, {found.images[0]} "
                         f"first: move them into their classes; {ARRANGE}")
    check_names(found.folders, directory)
    return found.folders


def class_order(train, val) -> Tuple[str, ...]:
    """The classes by label: the folders in train, sorted.

    Without training images (None): the official classes if they include all folders in val, else those folders.
    """
    if train is not None:
        return tuple(classes(train))
    present = classes(val)
    return SYNSETS if set(present) <= set(SYNSETS) else tuple(present)


def check_depth(directory, name, alone: bool) -> None:
    """Raise InputError if a class folder without images has folders with images. alone: it is the only class."""
    path = Path(directory) / name
    inner = listing(path).folders
    if set(inner) & set(SPLITS):
        raise InputError(f"{directory} has no class folders, but {path} has a folder {inner[-1]}: give --data-dir "
                         f"{path}")
    first = next((path / folder for folder in inner if listing(path / folder).images), None)
    if first is None:
        return
    if alone:
        raise InputError(f"the class folders are not in {directory} but in {path}, {first.name} first: move them up, "
                         f"into {directory}")
    raise InputError(f"{path} has images only in folders of its own, {first.name} first: move them up, into {path}")
