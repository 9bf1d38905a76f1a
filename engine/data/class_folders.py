"""A folder with a folder of images for each class: what is in it, and what to say if it is arranged in another way."""
import os
import shlex
from pathlib import Path
from typing import List, NamedTuple, Tuple

from engine.data.class_names import SYNSETS, check_names
from support.errors import InputError

SPLITS = ("train", "val")
EXTENSIONS = (".jpeg", ".jpg", ".png")  # of an image in a class folder, capital letters or not
PREPARE = "bash scripts/prepare_imagenet.sh --data-dir"

# Neither classes nor images, like every hidden file: what macOS's archives, a NAS and a file system's root have.
_NOBODYS = ("__MACOSX", "@eaDir", "lost+found")


class Listing(NamedTuple):
    """Names in a folder, sorted. images: those in `unreadable` too, which are links to nothing, pipes and so on."""

    folders: List[str]
    images: List[str]
    unreadable: List[str]
    dead: List[str]  # other links to nothing


def listing(directory) -> Listing:
    """What matters in a folder; neither hidden names nor folders of an extraction under way. Raises InputError."""
    found = Listing([], [], [], [])
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") or name in _NOBODYS:
                    continue
                if _is(entry.is_dir):
                    if not name.endswith(".part") and not _of_records(name, entry.path):
                        found.folders.append(name)
                elif name.lower().endswith(EXTENSIONS):
                    found.images.append(name)
                    if not _is(entry.is_file):
                        found.unreadable.append(name)
                elif entry.is_symlink() and not os.path.exists(entry.path):
                    found.dead.append(name)
    except OSError as error:
        raise InputError(f"cannot read the folder {directory}: {error.strerror}") from None
    for names in found:
        names.sort()
    return found


def _is(kind):
    try:
        return kind()
    except OSError:  # a link to itself, or to where nobody may look
        return False


def _of_records(name, path):
    """Whether it is the folder of record files, which may lie beside class folders."""
    return name == "rec" and any(Path(path).glob("*.rec"))


def classes(directory) -> List[str]:
    """Names of the class folders, sorted; [] if there are none. Raises InputError if some of the images have no class.

    A link to nothing may have been a class, without which every later label would be another.
    """
    found = listing(directory)
    if found.dead:
        raise InputError(f"{Path(directory) / found.dead[0]} is a link to what is not there, so that nobody knows "
                         "whether it is a class: mend or remove it")
    if found.folders and found.images:
        raise InputError(f"{directory} has {len(found.images):,} image(s) beside its class folders, {found.images[0]} "
                         f"first: move them into their classes{_sorting(directory)}")
    check_names(found.folders, directory)
    return found.folders


def class_order(train, val) -> Tuple[str, ...]:
    """The classes by label: the folders in train, sorted.

    Without training images (None) the official classes where all the folders in val are of them, else those folders.
    """
    if train is not None:
        return tuple(classes(train))
    present = classes(val)
    return SYNSETS if set(present) <= set(SYNSETS) else tuple(present)


def instead(directory) -> str:
    """What a folder without class folders has instead, where that helps."""
    directory = Path(directory)
    if listing(directory).images:
        return f" but images side by side{_sorting(directory)}"
    if any(directory.glob("ILSVRC2012_img_*.tar")):
        return f" but the official archives; unpack them with: {PREPARE} {shlex.quote(str(directory))}"
    return ""


def _sorting(directory):
    """How to sort images into classes; nothing for training images, which no list of labels is made for."""
    directory = Path(directory)
    if directory.name == "train":
        return ""
    folder = shlex.quote(str(directory.parent if directory.name == "val" else directory))
    where = folder if directory.name == "val" else f"DIR --val {folder}"
    return f"; sort them into classes with: {PREPARE} {where} --val-labels FILE"


def check_depth(directory, name, alone: bool) -> None:
    """InputError if a class folder without images has them in folders of its own; alone: there is no class but it."""
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
    raise InputError(f"{path} has no images in it but in folders of its own, {first.name} first: a class folder is to "
                     "hold its images itself")
