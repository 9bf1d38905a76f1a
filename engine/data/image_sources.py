"""Labelled images with random access, from a folder for each class or from a record file."""
import contextlib
import hashlib
import logging
import os
from typing import List, Optional, Sequence, Tuple

import numpy as np

from engine.data import class_folders, images
from engine.data.class_names import NAMES_FILE, SYNSETS, read_names
from engine.data.records import Damaged, RecordFile
from support.errors import InputError
from support.files import expanded, regular

log = logging.getLogger(__name__)


class Source:
    """Labelled image files with random access, safe to use from many threads.

    labels : int32 (N,), -1 if a damaged record hides it. class_names : by label, or None if they are not known.
    sha256 : of the list of images with their labels, not of the pixels: reading 140 GB takes many minutes.
    description : its name in messages.
    """

    labels: np.ndarray
    class_names: Optional[Tuple[str, ...]]
    sha256: str
    description: str

    def __len__(self):
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """The bytes of image `index`. Raises Damaged if they cannot be read."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Where image `index` is from, for messages."""
        raise NotImplementedError

    def left_out(self, index: int, reason: Damaged, damaged: str) -> str:
        """The name of a damaged image, which is left out. Raises InputError if damaged is 'refuse'."""
        if damaged == "refuse":
            raise InputError(f"{self.name(index)}: {reason}; replace this image, or leave damaged ones out with "
                             "--damaged skip")
        return self.name(index)

    def check(self, damaged: str = "refuse") -> None:
        """Raise InputError for damage that shows without reading the images; damaged='skip' logs it instead."""

    def shared(self, other: "Source") -> Optional[str]:
        """A file that another source of the same kind also has; None if there is none."""


class Folders(Source):
    """Images in one folder for each class; labels count the class names, which are sorted.

    files : CLASS/NAME of every image, in the order of the labels.
    """

    def __init__(self, directory, class_names: Optional[Sequence[str]] = None):
        self.directory = expanded(directory)
        self.description = str(self.directory)
        present = class_folders.classes(self.directory)
        if not present:
            raise InputError(f"{self.directory} has no class folders: it must hold a folder of images for each class, "
                             f"such as {SYNSETS[0]}; {class_folders.ARRANGE}")
        self.class_names = tuple(class_names or present)
        numbers = {name: label for label, name in enumerate(self.class_names)}
        strange = [name for name in present if name not in numbers]
        if strange:
            raise InputError(f"{self.directory} has {len(strange)} class folder(s) that are none of the "
                             f"{len(numbers)} classes, {strange[0]} first: take them away or give the right folder")
        self.files: List[str] = []
        labels, empty = [], []
        for name in present:
            found = class_folders.listing(self.directory / name)
            self.files += [f"{name}/{file}" for file in found.images]
            labels += [numbers[name]] * len(found.images)
            if not found.images:
                class_folders.check_depth(self.directory, name, present == [name])
                empty.append(name)
        if not self.files:
            raise InputError(f"{self.directory} has class folders but no {', '.join(class_folders.EXTENSIONS)} in them")
        if empty:
            log.warning("%s: %d class folder(s) without images, %s first", self.directory, len(empty), empty[0])
        self.labels = np.array(labels, np.int32)
        digest = hashlib.sha256()
        for file, label in zip(self.files, labels):
            digest.update(f"{file}\t{label}\n".encode("utf-8", "surrogateescape"))
        self.sha256 = digest.hexdigest()

    def read(self, index):
        return images.read(self.directory / self.files[index])

    def name(self, index):
        return str(self.directory / self.files[index])

    def shared(self, other):
        theirs, first = set(other.files), {}
        for file in self.files:
            if file in theirs:
                first.setdefault(file.partition("/")[0], file)
        for file in first.values():  # one of each class is enough: people link whole folders
            with contextlib.suppress(OSError):
                if os.path.samefile(self.directory / file, other.directory / file):
                    return str(other.directory / file)
        return None


class Records(Source):
    """Images of a record file, in the order of its index.

    The labels come from the .lst that MXNet's tool leaves beside a record file; without one, every record's header is
    read, with a disk access for each. A record's label is compared again when the record is read.
    idx : its index (default NAME.idx beside NAME.rec). class_names : those in synset.txt beside it, if there is one.
    """

    def __init__(self, rec, idx=None):
        rec = expanded(rec)
        self._records = RecordFile(rec, idx or rec.with_suffix(".idx"))
        self.description = str(rec)
        self.class_names = read_names(rec.with_name(NAMES_FILE))
        labels = _listed_labels(rec.with_suffix(".lst"), self._records.keys)
        if labels is None:
            if len(self) > 100_000:
                log.info("reading the labels of %d records of %s; its .lst beside it would save this", len(self), rec)
            labels = self._records.labels()
        self.labels = self._whole(labels)
        self.labels.flags.writeable = False
        digest = hashlib.sha256(self._records.index)
        digest.update(self.labels.astype("<i4"))
        digest.update(b"%d" % self._records.size)
        self.sha256 = digest.hexdigest()

    def __len__(self):
        return len(self._records)

    def _whole(self, values):
        """Labels as int32, -1 for NaN. Raises InputError for a label that is not a class."""
        classes = len(self.class_names or SYNSETS)
        known = ~np.isnan(values)
        if not known.any():
            raise InputError(f"{self.description} has no record that can be read{self._first_reason()}: copy it again, "
                             "or give a record file that has an image and one label in every record")
        with np.errstate(invalid="ignore"):
            wrong = np.flatnonzero(known & ~((values >= 0) & (values < classes) & (values == np.floor(values))))
        if wrong.size:
            raise InputError(f"{self.name(wrong[0])} has the label {values[wrong[0]]:g}, and the labels of {classes:,} "
                             f"classes are 0 to {classes - 1}: it is no record of this data set")
        return np.where(known, values, -1).astype(np.int32)

    def _first_reason(self):
        try:
            self._records.read(0)
        except Damaged as reason:
            return f" (record {self._records.keys[0]}: {reason})"
        return ""

    def read(self, index):
        label, content = self._records.read(index)
        if label != self.labels[index]:
            raise InputError(f"{self.name(index)} has the label {label:g}, and the .lst beside the record file says "
                             f"{self.labels[index]}: take the .lst away if it belongs to another file")
        return content

    def name(self, index):
        return f"{self._records.path}, record {self._records.keys[index]}"

    def check(self, damaged="refuse"):
        damage = self._records.damage()
        if damage and damaged == "refuse":
            raise InputError(f"{damage}; replace what is damaged, or leave it out with --damaged skip")
        if damage:
            log.warning("left out: %s", damage)

    def shared(self, other):
        ours, theirs = self._records, other._records
        same = os.path.samefile(ours.path, theirs.path) and np.intersect1d(ours.offsets, theirs.offsets).size
        return self.description if same else None


def _listed_labels(path, keys):
    """The labels that a .lst has for these keys, float64; None if it does not have all."""
    if not path.is_file():
        return None
    labels = {}
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", opener=regular) as lines:
            for line in lines:
                key, label, _ = line.split("\t")
                labels[int(key)] = float(label)
        return np.array([labels[key] for key in keys.tolist()])
    except (OSError, ValueError, KeyError):
        log.warning("%s is not the list of its record file: the labels are read from the records", path)
        return None
