"""The official files of CIFAR-10 and CIFAR-100: names, digests, meaning of the labels."""
from dataclasses import dataclass
from typing import Dict, Tuple

SIDE = 32  # pixels
PIXELS = 3 * SIDE * SIDE

BASE_URL = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class File:
    """One official file."""

    name: str
    split: str  # 'train' or 'test'
    images: int
    digest: str


@dataclass(frozen=True)
class Form:
    """One of the two official releases of a data set."""

    archive: str
    archive_md5: str  # as published beside the archives
    archive_size: int  # bytes
    folder: str  # inside the archive
    digest: str  # algorithm of the files' digests
    files: Tuple[File, ...]
    max_bytes: int  # per image, that a file may unpack to

    @property
    def unpacked(self) -> int:
        """Most bytes of the archive, unpacked."""
        # 16 MiB is ample: its other members (class names, a readme) and tar headers take some 30 kB.
        return sum(file.images for file in self.files) * self.max_bytes + (16 << 20)


@dataclass(frozen=True)
class Official:
    """The facts of one data set."""

    name: str
    title: str
    forms: Dict[str, Form]  # the preferred one first
    # (key in the python files, class names), in the order of the label bytes in the binary ones
    labels: Tuple[Tuple[str, Tuple[str, ...]], ...]
    label_modes: Tuple[str, ...]  # one for each kind of label; empty if there is only one kind

    @property
    def record(self) -> int:
        """Bytes per image in a binary file."""
        return len(self.labels) + PIXELS


def _form(files, **fields):
    return Form(files=tuple(File(*file) for file in files), **fields)


# A pickled image takes some 3,100 bytes, and twice its pixels if Python 3 wrote them for Python 2 as text.
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

# The archives' digests are from the data sets' own page. The files' digests: sha1 of the binary ones from MXNet's
# Gluon, md5 of the python ones from torchvision.
SETS = {
    "cifar10": Official(
        name="cifar10",
        title="CIFAR-10",
        forms={
            "binary": _form(
                archive="cifar-10-binary.tar.gz",
                archive_md5="c32a1d4ab5d03f1284b67883e8d87530",
                archive_size=170_052_171,
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
                archive_size=170_498_071,
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
    "cifar100": Official(
        name="cifar100",
        title="CIFAR-100",
        forms={
            "binary": _form(
                archive="cifar-100-binary.tar.gz",
                archive_md5="03b5dce01913d631647c71ecec9e9cb8",
                archive_size=168_513_733,
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
                archive_size=169_001_437,
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
