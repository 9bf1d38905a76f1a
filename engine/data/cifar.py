"""CIFAR-10 and CIFAR-100: found, checked and loaded as the official files have them; batches for training.

    python -m engine.data.cifar --dataset cifar10              # what is there, and images/s of the pipeline alone
    python -m engine.data.cifar --dataset cifar10 --download   # fetch the official archive first

Images stay in the files' own layout: uint8 (N, 3, 32, 32), red, green, blue planes. Nothing here needs MXNet.
"""

import functools
import gzip
import hashlib
import itertools
import logging
import lzma
import os
import posixpath
import statistics
import sys
import tarfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import numpy as np

from engine.cli import flags
from engine.cli.program import run_script
from engine.data import download as network
from engine.data import pickled_batch
from engine.data.prefetch import ahead
from engine.seeds import check_seed, random_stream
from support.errors import InputError
from support.files import expanded

log = logging.getLogger(__name__)

# Of pixel values scaled to 0..1, as the authors' code has them for both data sets. The deviations are the
# mean of each image's own; over all CIFAR-10 training pixels they are .247, .243, .262.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)

PAD = 4  # zero pixels on each side before the random crop, the authors' transforms.RandomCrop(32, pad=4)
SIDE = 32
PIXELS = 3 * SIDE * SIDE

BASE_URL = "https://www.cs.toronto.edu/~kriz/"


# --- The official files -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """One official file: its name, the split it belongs to, its number of images and its digest."""

    name: str
    split: str  # 'train' or 'test'
    images: int
    digest: str


@dataclass(frozen=True)
class Form:
    """One of the two official releases of a data set."""

    archive: str
    archive_md5: str  # as published beside the archives
    folder: str  # inside the archive
    digest: str  # algorithm of the files' digests
    files: Tuple[File, ...]
    max_bytes: int  # per image, that a file may unpack to

    @property
    def unpacked(self) -> int:
        """Bytes that the archive cannot exceed, packed or unpacked."""
        # 16 MiB: its other members (class names, a readme) and tar headers take some 30 kB.
        return sum(file.images for file in self.files) * self.max_bytes + (16 << 20)


@dataclass(frozen=True)
class Dataset:
    """What is known of one data set."""

    name: str
    title: str
    forms: Dict[str, Form]  # in the order of preference
    # (key in the python files, class names), in the order of the label bytes in the binary ones
    labels: Tuple[Tuple[str, Tuple[str, ...]], ...]
    label_modes: Tuple[str, ...]  # one per label; empty where there is nothing to choose

    @property
    def record(self) -> int:
        """Bytes per image in a binary file."""
        return len(self.labels) + PIXELS


def _form(files, **fields):
    return Form(files=tuple(File(*file) for file in files), **fields)


# A pickled image takes some 3,100 bytes, and twice its pixels where Python 3 wrote them for Python 2 as text.
_PICKLED_BYTES = 8192


def _names(text):
    return tuple(text.split())


CIFAR10_CLASSES = _names("airplane automobile bird cat deer dog frog horse ship truck")

CIFAR100_SUPERCLASSES = _names("""
    aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
    household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes
    large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals
    trees vehicles_1 vehicles_2
""")

CIFAR100_CLASSES = _names("""
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
    shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
""")

# Digests of the archives: the data sets' own page. Of the files: sha1 of the binary ones as MXNet's Gluon
# checks them, md5 of the python ones as torchvision does.
DATASETS = {
    "cifar10": Dataset(
        name="cifar10",
        title="CIFAR-10",
        forms={
            "binary": _form(
                archive="cifar-10-binary.tar.gz",
                archive_md5="c32a1d4ab5d03f1284b67883e8d87530",
                folder="cifar-10-batches-bin",
                digest="sha1",
                max_bytes=3073,
                files=(
                    ("data_batch_1.bin", "train", 10000, "aadd24acce27caa71bf4b10992e9e7b2d74c2540"),
                    ("data_batch_2.bin", "train", 10000, "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795"),
                    ("data_batch_3.bin", "train", 10000, "1dd00a74ab1d17a6e7d73e185b69dbf31242f295"),
                    ("data_batch_4.bin", "train", 10000, "aab85764eb3584312d3c7f65fd2fd016e36a258e"),
                    ("data_batch_5.bin", "train", 10000, "26e2849e66a845b7f1e4614ae70f4889ae604628"),
                    ("test_batch.bin", "test", 10000, "67eb016db431130d61cd03c7ad570b013799c88c"),
                ),
            ),
            "python": _form(
                archive="cifar-10-python.tar.gz",
                archive_md5="c58f30108f718f92721af3b95e74349a",
                folder="cifar-10-batches-py",
                digest="md5",
                max_bytes=_PICKLED_BYTES,
                files=(
                    ("data_batch_1", "train", 10000, "c99cafc152244af753f735de768cd75f"),
                    ("data_batch_2", "train", 10000, "d4bba439e000b95fd0a9bffe97cbabec"),
                    ("data_batch_3", "train", 10000, "54ebc095f3ab1f0389bbae665268c751"),
                    ("data_batch_4", "train", 10000, "634d18415352ddfa80567beed471001a"),
                    ("data_batch_5", "train", 10000, "482c414d41f54cd18b22e5b47cb7c3cb"),
                    ("test_batch", "test", 10000, "40351d587109b95175f43aff81a1287e"),
                ),
            ),
        },
        labels=(("labels", CIFAR10_CLASSES),),
        label_modes=(),
    ),
    "cifar100": Dataset(
        name="cifar100",
        title="CIFAR-100",
        forms={
            "binary": _form(
                archive="cifar-100-binary.tar.gz",
                archive_md5="03b5dce01913d631647c71ecec9e9cb8",
                folder="cifar-100-binary",
                digest="sha1",
                max_bytes=3074,
                files=(
                    ("train.bin", "train", 50000, "e207cd2e05b73b1393c74c7f5e7bea451d63e08e"),
                    ("test.bin", "test", 10000, "8fb6623e830365ff53cf14adec797474f5478006"),
                ),
            ),
            "python": _form(
                archive="cifar-100-python.tar.gz",
                archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
                folder="cifar-100-python",
                digest="md5",
                max_bytes=_PICKLED_BYTES,
                files=(
                    ("train", "train", 50000, "16019d7e3df5f24257cddd939b257f8d"),
                    ("test", "test", 10000, "f0ef6b0ae62326f3e7ffdfab6717acfc"),
                ),
            ),
        },
        labels=(("coarse_labels", CIFAR100_SUPERCLASSES), ("fine_labels", CIFAR100_CLASSES)),
        label_modes=("coarse", "fine"),
    ),
}


# --- Loading ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 3, 32, 32), contiguous and read-only, and their labels int32 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        self.images.flags.writeable = False
        self.labels.flags.writeable = False

    def __len__(self):
        return len(self.labels)


@dataclass(frozen=True)
class Cifar:
    """A loaded data set and where its bytes come from.

    label_mode: 'coarse' or 'fine' for CIFAR-100, None for CIFAR-10; class_names: by label.
    variant: "official", or one line that names what is not; it belongs beside every result.
    provenance: for JSON: {"files": [{"name", "sha256" of the bytes as loaded, "images", "official"}],
    "official": whether all of it is, "sha256": of train images, train labels, test images, test labels
    (labels as little-endian int32), the same for every form in which the same images may lie, "train_images",
    "test_images"}.
    """

    name: str
    label_mode: Optional[str]
    class_names: Tuple[str, ...]
    train: Split
    test: Split
    variant: str
    provenance: dict


class NotFound(InputError):
    """There is no data set where it was looked for. what: that, in short; holds: the other one that is there."""

    def __init__(self, what, advice, holds=None, message=None):
        super().__init__(message or f"{what}; {advice}")
        self.what, self.advice, self.holds = what, advice, holds


def default_root(name: str) -> Path:
    """Where the data set lies if nobody says otherwise: ~/.mxnet/datasets/<name>, as Gluon has it."""
    return expanded(os.environ.get("MXNET_HOME") or "~/.mxnet") / "datasets" / name


def load(name: str, root=None, label_mode: Optional[str] = None) -> Cifar:
    """Load 'cifar10' or 'cifar100' from `root` (default: `default_root`) into memory.

    Taken is the first of these that exists: the official archive in root, binary before python, read without
    being unpacked to disk; the files themselves in root or in their official folder there, a binary file
    perhaps as NAME.bin.xz. If root has none of them, root/<name> is searched the same way. Training files may
    be missing, and files need not be the official bytes: both are said in `variant` and in a warning.

    label_mode: 'coarse' (20 superclasses) or 'fine' (100 classes), for CIFAR-100 only. The default is
    'coarse': the authors trained on the default of Gluon's CIFAR100, so the paper's CIFAR-100 column is about
    superclasses.

    Raises InputError if nothing is found or a file is malformed (with file, byte offset and reason).
    """
    dataset = _dataset(name)
    column = _label_column(dataset, label_mode)
    folder = expanded(root) if root is not None else default_root(name)
    try:
        found = _find(dataset, folder)
        if found is None:
            raise _not_found(dataset, folder, given=root is not None)
    except OSError as error:  # a folder that may not be searched, say
        raise InputError(f"{folder} cannot be searched: {error.strerror}; give another --data-dir") from None
    form, archive, contents = found

    parts, records = {}, {}
    for file, where, content in contents:
        if file in parts:
            raise InputError(f"{where}: the same file twice in one archive; {_advice(dataset)}")
        parse = _parse_binary if form is dataset.forms["binary"] else _parse_pickled
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
            raise InputError(
                f"the {split} images of {dataset.title} are missing ({wanted}) beside "
                f"{', '.join(record['name'] for record in records.values())}; {_advice(dataset)}"
            )
        images = np.ascontiguousarray(np.concatenate([images for images, _ in found])).reshape(-1, 3, SIDE, SIDE)
        splits[split] = Split(images, np.concatenate([labels for _, labels in found]).astype(np.int32))

    # The files' digests are from other projects' lists; the archive's, from the data's own site, outranks them.
    if archive is not None and not all(record["official"] for record in records.values()) \
            and hashlib.md5(archive.read_bytes()).hexdigest() == form.archive_md5:
        records = {file: {**record, "official": True} for file, record in records.items()}
    variant = _variant(form, records)
    if variant != "official":
        log.warning("%s: %s", dataset.title, variant)
    provenance = {
        "files": [records[file] for file in form.files if file in records],
        "official": variant == "official",
        "sha256": _digest(splits["train"], splits["test"]),
        **{f"{split}_images": len(part) for split, part in splits.items()},
    }
    mode = dataset.label_modes[column] if dataset.label_modes else None
    return Cifar(name, mode, dataset.labels[column][1], splits["train"], splits["test"], variant, provenance)


def load_or_download(name: str, root=None, label_mode: Optional[str] = None, base_url: Optional[str] = None) -> Cifar:
    """`load`, after a `download` where there is nothing to load."""
    try:
        return load(name, root, label_mode)
    except NotFound as missing:
        try:
            download(name, root, base_url)
        except InputError as error:
            sample = " (--data-dir data/cifar10-sample is the sample that ships)" if name == "cifar10" else ""
            raise NotFound(f"{missing.what}, and {_dataset(name).title} could not be downloaded ({error})",
                           f"{missing.advice}, or give another source with --mirror{sample}", missing.holds) from error
        return load(name, root, label_mode)


def _dataset(name) -> Dataset:
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _label_column(dataset, label_mode) -> int:
    if label_mode is None:
        return 0
    if label_mode not in dataset.label_modes:
        allowed = " or ".join(dataset.label_modes)
        raise InputError(
            f"unknown label mode {label_mode!r} for {dataset.title}: choose {allowed}"
            if allowed
            else f"{dataset.title} has one kind of label: leave the label mode {label_mode!r} out"
        )
    return dataset.label_modes.index(label_mode)


def class_names(name: str, label_mode: Optional[str] = None) -> Tuple[str, ...]:
    """The class names of a data set by label, without its data; arguments as `load`."""
    dataset = _dataset(name)
    return dataset.labels[_label_column(dataset, label_mode)][1]


def check_size(model: str, size: int) -> None:
    """InputError for a net whose images have another side than CIFAR's 32 pixels."""
    if size != SIDE:
        raise InputError(f"{model} is for images of {size} x {size} pixels and CIFAR's have {SIDE} x {SIDE}: name a "
                         "net that ends in _resnet20_v2")


def _advice(dataset) -> str:
    return f"get the official files with: bash scripts/download_cifar.sh {dataset.name}"


def _refuse(where, offset, reason):
    raise InputError(f"{where}, byte {offset}: {reason}; fetch the file again or remove it")


def _find(dataset, root):
    """The first form present, the archive it is in or None, and an iterator of (File, name for errors, content).

    None where there is no form.
    """
    for folder in (root, root / dataset.name):
        for form in dataset.forms.values():
            if (folder / form.archive).is_file():
                return form, folder / form.archive, _archive_contents(folder / form.archive, form)
        for form in dataset.forms.values():
            for place in (folder, folder / form.folder):
                spelled = ((file, path) for file in form.files for path in _spellings(place, file))
                paths = {file: path for file, path in spelled if path.is_file()}
                if paths:
                    return form, None, ((file, str(path), _read(path, file, form)) for file, path in paths.items())
    return None


def _not_found(dataset, root, given):
    """The NotFound of a folder. given: whether the user has named it."""
    for other in DATASETS.values():
        if given and _find(other, root) is not None:
            return NotFound(f"{root} holds {other.title}, not {dataset.title}",
                            f"give --dataset {other.name}, or with --data-dir the folder of {dataset.title}",
                            other.name)
    if given and not root.is_dir():
        place = "" if root.is_absolute() else f" ({root.absolute()})"
        return NotFound(f"--data-dir {root}: that folder does not exist{place}",
                        f"name the folder that has {dataset.title}")
    wanted = [form.archive for form in dataset.forms.values()]
    wanted += [f"{form.folder}/{form.files[0].name}" for form in dataset.forms.values()]
    what = f"there is no {dataset.title} in {root}"
    advice = f"name {'another' if given else 'its'} folder with --data-dir"
    return NotFound(what, advice, message=f"{what}: none of {', '.join(wanted)} is there, nor in its folder "
                    f"{dataset.name}; {advice}, or {_advice(dataset)}")


def _spellings(place, file):
    # The last one that exists is taken: a plain file before a compressed one.
    plain = place / file.name
    return [place / f"{file.name}.xz", plain] if plain.suffix == ".bin" else [plain]


def _read(path, file, form) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return _unxz(content, path, file.images * form.max_bytes) if path.suffix == ".xz" else content


def _unxz(packed, path, limit) -> bytes:
    # 256 MiB is four times what the strongest preset needs; without a limit a file asks for what it likes.
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 28)
    try:
        content = stream.decompress(packed, max_length=limit + 1)
    except lzma.LZMAError as error:
        raise InputError(f"{path} is no readable xz file ({error}); fetch the file again or remove it") from None
    if len(content) > limit:
        _refuse(path, limit, f"it unpacks to more than the official {limit:,} bytes")
    if not stream.eof:
        _refuse(path, len(packed), f"the xz stream ends too early, after {len(content):,} unpacked bytes")
    if stream.unused_data:
        _refuse(path, len(packed) - len(stream.unused_data), "there are bytes after the end of the xz stream")
    return content


class _Bounded:
    """Reads of a stream up to a number of bytes that no honest archive reaches."""

    def __init__(self, stream, limit, where):
        self.stream, self.left, self.limit, self.where = stream, limit, limit, where

    def read(self, size):
        chunk = self.stream.read(min(size, self.left + 1))
        self.left -= len(chunk)
        if self.left < 0:
            _refuse(self.where, self.limit, "unpacked, the archive is larger than the official one can be")
        return chunk


def _archive_contents(path, form):
    """The wanted members of a tar.gz, read in memory in one pass; nothing is written, no link is followed.

    Byte offsets in errors are those of the unpacked archive.
    """
    # Gluon's own mirror has the files at the top of the archive, without the folder.
    wanted = {name: file for file in form.files for name in (file.name, f"{form.folder}/{file.name}")}
    limit = form.unpacked
    try:
        with gzip.open(path) as unpacked:
            stream = _Bounded(unpacked, limit, path)
            with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as archive:
                for member in archive:
                    file = wanted.get(posixpath.normpath(member.name))
                    if file is not None:
                        where = f"{path} ({member.name})"
                        yield file, where, _member(archive, member, file.images * form.max_bytes, where)
                    if archive.offset > limit:  # where the next one is to be; tarfile would read on for hours
                        where = f"{path} ({ascii(member.name)[:80]})"
                        _refuse(where, member.offset, "unpacked, the archive is larger than the official one can be")
            while stream.read(1 << 20):  # to the end, where gzip compares its checksum
                pass
    except InputError:
        raise
    # ValueError: tarfile lets it through for some broken headers
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path} is no whole tar.gz archive ({error}); fetch it again or remove it") from None


def _member(archive, member, limit, where) -> bytes:
    if not member.isreg():
        _refuse(where, member.offset, "the archive has a link or a folder in place of this file")
    if member.size > limit:
        _refuse(where, member.offset, f"{member.size:,} bytes are more than this file can have")
    content = archive.extractfile(member).read()
    if len(content) != member.size:
        missing = member.size - len(content)
        _refuse(where, member.offset_data + len(content), f"the archive ends {missing:,} bytes early")
    return content


def _parse_binary(content, where, dataset) -> Tuple[np.ndarray, List[np.ndarray]]:
    """A binary file as uint8 (N, 3072) pixels and one uint8 (N,) array per label."""
    if not content:
        _refuse(where, 0, "the file is empty")
    count, rest = divmod(len(content), dataset.record)
    if rest:
        missing = f"{dataset.record - rest:,} of its {dataset.record:,} bytes are missing"
        _refuse(where, count * dataset.record, f"the record of image {count} is cut, {missing}")
    records = np.frombuffer(content, np.uint8).reshape(count, dataset.record)
    first = len(dataset.labels)
    labels = [records[:, column] for column in range(first)]
    offsets = np.arange(count) * dataset.record
    for column, values in enumerate(labels):
        _check_labels(values, offsets + column, where, *dataset.labels[column])
    return records[:, first:], labels


def _parse_pickled(content, where, dataset):
    if not content:
        _refuse(where, 0, "the file is empty")
    images, labels = pickled_batch.read_batch(content, where, tuple(key for key, _ in dataset.labels))
    for key, names in dataset.labels:
        _check_labels(*labels[key], where, key, names)
    return images, [labels[key].values for key, _ in dataset.labels]


def _check_labels(values, offsets, where, key, names):
    wrong = np.flatnonzero((values < 0) | (values >= len(names)))
    if wrong.size:
        image = wrong[0]
        _refuse(
            where,
            offsets[image],
            f"image {image} has {values[image]} among its {key}, which go from 0 to {len(names) - 1}",
        )


def _variant(form, records) -> str:
    foreign = [file for file in form.files if file in records and not records[file]["official"]]
    absent = [file for file in form.files if file not in records]
    parts = []
    if foreign:
        texts = [
            f"{_span(run)} ({sum(records[file]['images'] for file in run):,} images)" for run in _runs(foreign, form)
        ]
        parts.append(f"not the official files: {', '.join(texts)}")
    if absent:
        parts.append(f"absent: {', '.join(_span(run) for run in _runs(absent, form))}")
    return "; ".join(parts) or "official"


def _runs(files, form):
    """Neighbours in the official list, of the same split, as one group."""
    # Along neighbours, the distance between the two positions stays the same.
    keys = [(file.split, form.files.index(file) - position) for position, file in enumerate(files)]
    groups = itertools.groupby(zip(keys, files), key=lambda pair: pair[0])
    return [[file for _, file in group] for _, group in groups]


def _span(run) -> str:
    return run[0].name if len(run) == 1 else f"{run[0].name} ... {run[-1].name}"


def _digest(*splits) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.images)
        digest.update(split.labels.astype("<i4"))
    return digest.hexdigest()


def download(name: str, root=None, base_url: Optional[str] = None, form: str = "binary", **how) -> Path:
    """Fetch the official archive of a data set into `root` (default: `default_root`) and return its path.

    base_url: a mirror's folder, https://, http:// (the checksum is compared) or file://;
    form: 'binary' or 'python'; how: progress, timeout and attempts of `engine.data.download.fetch`.
    Raises InputError if it cannot be had or has other bytes than the official one.
    """
    dataset = _dataset(name)
    if form not in dataset.forms:
        raise InputError(f"unknown form {form!r} of {dataset.title}: choose one of {', '.join(dataset.forms)}")
    archive = dataset.forms[form].archive
    path = (expanded(root) if root is not None else default_root(name)) / archive
    url = f"{(base_url or BASE_URL).rstrip('/')}/{archive}"
    # What was named on the command line may be http; the site's own https address must not lead to it.
    allow_http = base_url is not None
    return network.fetch(url, path, md5=dataset.forms[form].archive_md5, most=dataset.forms[form].unpacked,
                         allow_http=allow_http, **how)


# --- Splitting ----------------------------------------------------------------------------------------------


def hold_out(split: Split, count: int, seed: int) -> Tuple[Split, Split]:
    """Set `count` images aside, drawn from the seed, every class by its share; both parts keep the order.

    Returns (training part, held-out part). Raises InputError if either would be empty.
    """
    if not 0 < count < len(split):
        raise InputError(f"cannot hold out {count} of {len(split)} images: give a number from 1 to {len(split) - 1}")
    check_seed(seed)
    sizes = np.bincount(split.labels)
    shares = sizes * count / len(split)
    taken = np.floor(shares).astype(int)
    # What rounding down left over goes to the largest remainders, on a tie to the lower label.
    taken[np.argsort(taken - shares, kind="stable")[: count - taken.sum()]] += 1

    generator = random_stream(seed, _HOLD_OUT)
    held = np.zeros(len(split), bool)
    for label, number in enumerate(taken):
        held[generator.permutation(np.flatnonzero(split.labels == label))[:number]] = True
    return tuple(Split(split.images[part], split.labels[part]) for part in (~held, held))


# --- Batches ------------------------------------------------------------------------------------------------

# One stream of random numbers per purpose, so that none depends on how much another has drawn.
_HOLD_OUT, _ORDER, _AUGMENT = range(3)


_SCALE = (1 / (255 * np.array(STD))).astype(np.float32).reshape(3, 1, 1)
_SHIFT = (-np.array(MEAN) / np.array(STD)).astype(np.float32).reshape(3, 1, 1)


def normalise(images: np.ndarray) -> np.ndarray:
    """(pixel / 255 - MEAN) / STD per channel: uint8 (..., 3, H, W) -> new float32 array of the same shape."""
    out = np.multiply(images, _SCALE, dtype=np.float32)
    out += _SHIFT
    return out


class TrainBatches:
    """Shuffled, augmented batches; each is a function of (seed, epoch, step) alone.

    An epoch resumed at any step therefore gives the bits of an uninterrupted one, with any number of workers.
    Augmentation: PAD zero pixels around each image, a random 32x32 crop, a mirror image half of the time.
    last_batch: 'discard' leaves out what does not fill a batch (the authors' setting), 'keep' makes it a
    smaller one. Raises InputError for a batch that is larger than the split, or a wrong argument.
    """

    def __init__(self, split: Split, batch_size: int, seed: int, augment: bool = True, last_batch: str = "discard"):
        if last_batch not in ("discard", "keep"):
            raise InputError(f"unknown last_batch {last_batch!r}: choose discard or keep")
        if not 1 <= batch_size <= len(split):
            raise InputError(
                f"a batch of {batch_size} does not fit {len(split)} training images: "
                f"give a batch size from 1 to {len(split)}"
            )
        check_seed(seed)
        self.split, self.batch_size, self.seed, self.augment = split, batch_size, seed, augment
        self.steps = len(split) // batch_size  # per epoch
        if last_batch == "keep" and len(split) % batch_size:
            self.steps += 1
        if augment:
            # Padded once and kept: 240 MB for 50,000 images. crops[n, :, y, x] is then a view, not a copy.
            border = ((0, 0), (0, 0), (PAD, PAD), (PAD, PAD))
            padded = np.pad(split.images, border)
            self._crops = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), axis=(2, 3))

    def epoch(self, index: int, start: int = 0, workers: int = 0) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        """The batches of epoch `index` from step `start` on: new (float32 (B, 3, 32, 32), int32 (B,)) each time.

        workers: threads that compute ahead (no more than there are cores), 0 for none.
        """
        if index < 0 or not 0 <= start <= self.steps:
            raise InputError(f"there is no step {start} in epoch {index}: an epoch has {self.steps} steps, from 0")
        order = random_stream(self.seed, _ORDER, index).permutation(len(self.split))
        calls = (functools.partial(self._batch, order, index, step) for step in range(start, self.steps))
        if workers < 1:
            return (call() for call in calls)
        workers = min(workers, _cores())
        return ahead(calls, workers, depth=2 * workers)

    def _batch(self, order, epoch, step):
        chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
        if not self.augment:
            return normalise(self.split.images[chosen]), self.split.labels[chosen]
        generator = random_stream(self.seed, _AUGMENT, epoch, step)
        y, x = generator.integers(0, 2 * PAD + 1, (2, len(chosen)))
        mirrored = generator.random(len(chosen)) < 0.5
        images = self._crops[chosen, :, y, x]
        images[mirrored] = images[mirrored, :, :, ::-1]
        return normalise(images), self.split.labels[chosen]


class EvalBatches:
    """Every image once, in order: (float32 (B, 3, 32, 32), int32 (B,), count) with B always the batch size.

    Only the first `count` images of a batch are real: the last batch is filled up from the first image on.
    """

    def __init__(self, split: Split, batch_size: int):
        if batch_size < 1:
            raise InputError(f"a batch of {batch_size} images cannot be evaluated: give 1 or more")
        self.split, self.batch_size = split, batch_size
        self.steps = -(-len(split) // batch_size)

    def __len__(self):
        return self.steps

    def __iter__(self):
        for start in range(0, len(self.split), self.batch_size):
            chosen = np.arange(start, start + self.batch_size) % len(self.split)
            count = min(self.batch_size, len(self.split) - start)
            yield normalise(self.split.images[chosen]), self.split.labels[chosen], count


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- Command ------------------------------------------------------------------------------------------------


def measure_pipeline(
    split: Split,
    batch_size: int = 128,
    workers: int = 0,
    seconds: float = 3.0,
    repeats: int = 5,
    seed: int = 0,
) -> float:
    """Images/s of the augmented training batches alone: the median of `repeats`, over `seconds` in all."""
    batches = TrainBatches(split, batch_size, seed)
    stream = itertools.chain.from_iterable(batches.epoch(index, workers=workers) for index in itertools.count())
    next(stream)
    speeds = []
    for _ in range(repeats):
        images, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds / repeats or not images:
            images += len(next(stream)[1])
        speeds.append(images / (time.perf_counter() - began))
    return statistics.median(speeds)


def _parser():
    parser = flags.Parser(
        prog=flags.program("python -m engine.data.cifar"),
        description="Show what CIFAR data there is and how fast it becomes batches, or download it.",
    )
    parser.add_argument("--dataset", choices=[*DATASETS, "all"], default="cifar10")
    parser.add_argument(
        "--data-dir", type=flags.words, help="folder of the data (default: ~/.mxnet/datasets/<dataset>)"
    )
    parser.add_argument("--label-mode", choices=["fine", "coarse"], help="labels of CIFAR-100 (default: coarse)")
    parser.add_argument("--download", action="store_true", help="fetch the official archive and stop")
    parser.add_argument(
        "--mirror", type=flags.words, metavar="URL", help=f"folder to fetch from (default: {BASE_URL})"
    )
    parser.add_argument("--python-version", action="store_true", help="fetch the python archive, not the binary one")
    parser.add_argument(
        "--timeout", type=flags.number(float, 0.001, 86400), default=30.0,
        help="seconds of silence allowed (default: 30)",
    )
    parser.add_argument(
        "--attempts", type=flags.number(int, 1, 1000), default=4, help="tries after lost connections (default: 4)"
    )
    parser.add_argument(
        "--seconds", type=flags.number(float, 0, 86400), default=3.0,
        help="how long to measure (default: 3; 0: not at all)",
    )
    parser.add_argument("--batch-size", type=flags.number(int, 1, 100_000), default=128)
    parser.add_argument(
        "--workers", type=flags.number(int, 0, 1024), default=0, help="threads that make batches ahead (default: 0)"
    )
    return parser


def _show(name, arguments):
    cifar = load(name, arguments.data_dir, arguments.label_mode if DATASETS[name].label_modes else None)
    mode = f", {cifar.label_mode} labels" if cifar.label_mode else ""
    print(f"{name}{mode}: {cifar.variant}")
    print(f"sha256 {cifar.provenance['sha256']}")
    print(f"{len(cifar.train):,} training and {len(cifar.test):,} test images, {len(cifar.class_names)} classes")
    counts = [np.bincount(split.labels, minlength=len(cifar.class_names)) for split in (cifar.train, cifar.test)]
    for class_name, train, test in zip(cifar.class_names, *counts):
        print(f"  {class_name:32}{train:7,}{test:7,}")
    if arguments.seconds > 0:
        batch = min(arguments.batch_size, len(cifar.train))
        speed = measure_pipeline(cifar.train, batch, arguments.workers, arguments.seconds)
        print(f"pipeline alone: {speed:,.0f} images/s (batch {batch}, {arguments.workers} workers)")


def main(argv=None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.label_mode and arguments.dataset == "cifar10":
        parser.error("--label-mode is for cifar100: CIFAR-10 has one kind of label")
    if not arguments.download and (arguments.mirror or arguments.python_version):
        parser.error("--mirror and --python-version go with --download")
    try:
        for name in DATASETS if arguments.dataset == "all" else [arguments.dataset]:
            if arguments.download:
                form = "python" if arguments.python_version else "binary"
                path = download(
                    name,
                    arguments.data_dir,
                    arguments.mirror,
                    form,
                    timeout=arguments.timeout,
                    attempts=arguments.attempts,
                )
                print(f"{name}: the official archive is {path}")
            else:
                _show(name, arguments)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_script(main)
