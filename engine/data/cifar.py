"""CIFAR-10 and CIFAR-100: find, check and load the files.

Images stay in the files' layout: uint8 (N, 3, 32, 32), red, green, blue planes.
"""
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

import numpy as np

from engine.data import download as network
from engine.data.cifar_archives import find, parse_binary, parse_pickled, refuse
from engine.data.cifar_files import BASE_URL, SETS, SIDE, Official
from engine.data.dataset import Dataset, Images, Origin, root_of
from engine.data.in_memory import CPU_BATCH, SMALL, EvalBatches, Split, digest, normalise, small, training_of
from support import ROOT
from support.errors import InputError
from support.files import digests

log = logging.getLogger(__name__)

SAMPLE = ROOT / "data" / "cifar10-sample"  # real CIFAR-10 that ships with the repository


@dataclass(frozen=True)
class Cifar(Origin):
    """A loaded data set and where its bytes come from.

    provenance: {"files": [{"name", "sha256" of the bytes as loaded, "images", "official"}], "official": whether all
    files are, "sha256": of train images, train labels, test images, test labels (labels as little-endian int32), equal
    for the same images in any form, "train_images", "test_images"}.
    label_mode: 'coarse' or 'fine' for CIFAR-100, None for CIFAR-10.
    """

    label_mode: Optional[str]
    train: Split
    test: Split


class NotFound(InputError):
    """The data set was not found."""


def load(name: str, root=None, label_mode: Optional[str] = None) -> Cifar:
    """Load 'cifar10' or 'cifar100' from `root` (default: of `root_of`) into memory.

    The first of these that exists is loaded: the official archive in root, binary before python, read without
    unpacking it to disk; or the files themselves in root or in their official folder there, a binary file also as
    NAME.bin.xz. If root has none of them, root/<name> is searched the same way. Training files may be missing, and
    files need not be the official bytes: `variant` and a warning say so.

    label_mode: 'coarse' (20 superclasses) or 'fine' (100 classes), for CIFAR-100 only. The default is 'coarse': the
    authors trained on the default of Gluon's CIFAR100, so the paper's CIFAR-100 column is about superclasses.

    Raises InputError if nothing is found or a file is malformed (with file, byte offset and reason).
    """
    dataset = _dataset(name)
    column = _label_column(dataset, label_mode)
    folder = root_of(name, root)
    try:
        found = find(dataset, folder)
        if found is None:
            raise _not_found(dataset, folder, given=root is not None)
    except OSError as error:  # such as a folder without permission
        raise InputError(f"{folder} cannot be searched: {error.strerror}; give another --data-dir") from None
    form, archive, contents = found

    parts, records = {}, {}
    for file, where, content in contents:
        if file in parts:
            raise InputError(f"{where}: the same file twice in one archive; {_advice(dataset)}")
        if not content:
            refuse(where, 0, "the file is empty")
        parse = parse_binary if form is dataset.forms["binary"] else parse_pickled
        images, labels = parse(content, where, dataset)
        parts[file] = images, labels[column]
        records[file] = {
            "name": file.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "images": len(images),
            "official": hashlib.new(form.digest, content).hexdigest() == file.digest,
        }

    splits = {}
    for split in ("train", "test"):
        found = [parts[file] for file in form.files if file.split == split and file in parts]
        if not found:
            wanted = ", ".join(file.name for file in form.files if file.split == split)
            raise InputError(f"the {split} images of {dataset.title} are missing ({wanted}) beside "
                             f"{', '.join(record['name'] for record in records.values())}; {_advice(dataset)}")
        images = np.ascontiguousarray(np.concatenate([images for images, _ in found])).reshape(-1, 3, SIDE, SIDE)
        splits[split] = Split(images, np.concatenate([labels for _, labels in found]).astype(np.int32))

    # The archive's digest is from the data's own site; it outranks the files' digests from other projects.
    if archive is not None and not all(record["official"] for record in records.values()) \
            and digests(archive, ["md5"])["md5"] == form.archive_md5:
        records = {file: {**record, "official": True} for file, record in records.items()}
    listed = [records[file] for file in form.files if file in records]
    variant = _variant(form, listed)
    if variant != "official":
        log.warning("%s: %s", dataset.title, variant)
    provenance = {
        "files": listed,
        "official": variant == "official",
        "sha256": digest(splits["train"], splits["test"]),
        **{f"{split}_images": len(part) for split, part in splits.items()},
    }
    mode = dataset.label_modes[column] if dataset.label_modes else None
    return Cifar(dataset.labels[column][1], variant, provenance, mode, **splits)


def load_or_download(name: str, root=None, label_mode: Optional[str] = None, base_url: Optional[str] = None) -> Cifar:
    """`load`, after a `download` if nothing is found."""
    try:
        return load(name, root, label_mode)
    except NotFound as missing:
        try:
            download(name, root, base_url)
        except InputError as error:
            sample = " (--data-dir data/cifar10-sample is the sample that ships)" if name == "cifar10" else ""
            raise NotFound(f"{missing}; {_dataset(name).title} could not be downloaded ({error}): give another source "
                           f"with --mirror{sample}") from error
        return load(name, root, label_mode)


def _dataset(name) -> Official:
    if name not in SETS:
        raise InputError(f"unknown data set {name!r}: choose one of {', '.join(SETS)}")
    return SETS[name]


def _label_column(dataset, label_mode) -> int:
    if label_mode is None:
        return 0
    if label_mode not in dataset.label_modes:
        raise InputError(f"{dataset.title} has no labels of the kind {label_mode!r}: leave the label mode out")
    return dataset.label_modes.index(label_mode)


def class_names(name: str, label_mode: Optional[str] = None) -> Tuple[str, ...]:
    """The class names of a data set by label, without its data; arguments as in `load`."""
    dataset = _dataset(name)
    return dataset.labels[_label_column(dataset, label_mode)][1]


def check_size(model: str, size: int) -> None:
    """Raise InputError for a net whose images do not have CIFAR's 32 x 32 pixels."""
    if size != SIDE:
        raise InputError(f"{model} is for images of {size} x {size} pixels and CIFAR's have {SIDE} x {SIDE}: name a "
                         "net that ends in _resnet20_v2")


def _advice(dataset) -> str:
    return f"get the official files with: bash scripts/download_cifar.sh {dataset.name}"


def _not_found(dataset, root, given):
    """The NotFound for a folder. given: whether the user named it."""
    for other in SETS.values():
        if given and find(other, root) is not None:
            return NotFound(f"{root} holds {other.title}, not {dataset.title}: name the folder of {dataset.title} with "
                            f"--data-dir, or choose {other.name}")
    if given and not root.is_dir():
        place = "" if root.is_absolute() else f" ({root.absolute()})"
        return NotFound(f"--data-dir {root}: that folder does not exist{place}; name the folder that has "
                        f"{dataset.title}")
    wanted = [form.archive for form in dataset.forms.values()]
    wanted += [f"{form.folder}/{form.files[0].name}" for form in dataset.forms.values()]
    return NotFound(f"there is no {dataset.title} in {root}: none of {', '.join(wanted)} is there, nor in its folder "
                    f"{dataset.name}; name {'another' if given else 'its'} folder with --data-dir, or "
                    f"{_advice(dataset)}")


def _variant(form, records) -> str:
    """What is not official, in words, or 'official'."""
    strange = [f"{record['name']} ({record['images']:,} images)" for record in records if not record["official"]]
    names = {record["name"] for record in records}
    absent = [file.name for file in form.files if file.name not in names]
    return "; ".join(f"{words}: {', '.join(files)}" for words, files in (
        ("not the official files", strange), ("absent", absent)) if files) or "official"


def download(name: str, root=None, base_url: Optional[str] = None, form: str = "binary", **how) -> Path:
    """Fetch the official archive of a data set into `root` (default: of `root_of`); returns its path.

    base_url: a mirror's folder, https://, http:// (the checksum is compared) or file://. form: 'binary' or 'python'.
    how: progress, timeout and attempts of `engine.data.download.fetch`. Raises InputError if it cannot be fetched or
    differs from the official archive.
    """
    wanted = _dataset(name).forms[form]
    path = root_of(name, root) / wanted.archive
    url = f"{(base_url or BASE_URL).rstrip('/')}/{wanted.archive}"
    # A mirror named by the user may be http; the site's own https address must not redirect to http.
    return network.fetch(url, path, md5=wanted.archive_md5, size=wanted.archive_size,
                         allow_http=base_url is not None, **how)


def sample_pictures(count: int):
    """The first test images of SAMPLE as pictures: uint8 (32, 32, 3), blue first."""
    dataset, found = SETS["cifar10"], find(SETS["cifar10"], SAMPLE)
    for file, where, content in found[2] if found else ():
        if file.split == "test":
            images, _ = parse_binary(content, where, dataset)
            return [image.reshape(3, SIDE, SIDE)[::-1].transpose(1, 2, 0) for image in images[:count]]
    raise InputError(f"there are no test images in {SAMPLE}; restore it from the repository")


class CifarSet(Dataset):
    """CIFAR-10 or CIFAR-100, in memory. options: data_dir, label_mode, mirror."""

    def __init__(self, name, options, known=None):
        super().__init__(name, options)
        own = known and known.label_mode
        self.label_mode = own or options.label_mode or ("coarse" if name == "cifar100" else None)
        self.title = f"{name} ({self.label_mode} labels)" if self.label_mode else name
        self.outputs = (10,) if name == "cifar10" else (100, 20) if self.label_mode == "coarse" else (100,)

    def class_names(self, classes):
        return class_names(self.name, self.label_mode)

    def complete(self, model, arguments, size):
        check_size(model, size)
        return arguments

    def load(self):
        """The Cifar, downloaded first if there is none."""
        return load_or_download(self.name, self.options.data_dir, self.label_mode, self.options.mirror)

    def training(self, experiment, batch_size, kind, part=(0, 1)):
        data = self.load()
        remarks = [f"data: {self.title}, {len(data.train):,} training and {len(data.test):,} test images, sha256 "
                   f"{data.provenance['sha256']}"]
        if self.label_mode == "coarse":
            remarks.append(f"labels: the 20 superclasses, with {experiment.classes} outputs of the net, as in the "
                           "authors' runs and the paper's table; --label-mode fine trains the 100 classes")
        return training_of(data.origin, data.train, data.test, experiment, batch_size, kind, "test", remarks, part)

    def images(self, classes, kind, batch_size=None):
        data = self.load()
        return Images(data.origin, EvalBatches(data.test, min(batch_size or CPU_BATCH, len(data.test))),
                      f"{self.title}: {len(data.test):,} test images, data {data.in_short}")

    @property
    def preprocessing(self):
        return SMALL

    def pixels(self, picture):
        """The middle square, scaled."""
        return normalise(small(picture)[None])
