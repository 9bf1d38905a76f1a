"""One value for what is run, `Experiment`, and one for what came out, `Result`; both go to JSON and back.

A program turns its flags into an Experiment. Checkpoints, args.json, result.json and the ledger hold it: two runs are
the same if their Experiments are equal, and `difference` says what differs. engine.old_forms reads older files.
"""
import dataclasses
from typing import Any, Mapping, Optional, Tuple

from support import json_files
from support.errors import InputError
from support.json_files import COUNT, FLAG, LINES, NOTHING, NUMBER, OBJECT, POSITIVE, SHA256, SHARE, SOME, TEXT, Kind

from .recipe import Recipe, one_of

FORMAT = 2  # of both values in JSON
DATASETS = ("cifar10", "cifar100", "imagenet", "folder")
LABEL_MODES = ("coarse", "fine")  # of CIFAR-100
DTYPES = ("float32", "float16", "bfloat16", "tf32")
CHOSEN_ON = ("test", "held-out", "validation")


SIDE = Kind("a number of pixels from 2 to 4096", lambda value: COUNT.holds(value) and 2 <= value <= 4096)
SEED = Kind("a whole number below 2^32", lambda value: COUNT.holds(value) and value < 2 ** 32)
ABOVE_0 = Kind("a share above 0", lambda value: SHARE.holds(value) and value > 0)


# An argument of a net, or a part of one that is a list.
ARGUMENT = Kind("a number, text, true, false or null", lambda value: value is None or FLAG.holds(value)
                or NUMBER.holds(value) or TEXT.holds(value))


def _pairs(arguments):
    """Keyword arguments as sorted pairs, lists as tuples: hashable, and equal if they mean the same."""
    pairs = arguments.items() if isinstance(arguments, Mapping) else arguments
    return tuple(sorted((name, tuple(value) if isinstance(value, list) else value) for name, value in pairs))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that decides a run: equal ones on equal data give equal numbers. Raises InputError for nonsense.

    model : name of the net.
    arguments : all keyword arguments of its constructor, `classes` included; given as a dict, kept as sorted pairs.
    dataset, label_mode : the training data; the label mode is 'coarse' or 'fine' for CIFAR-100, else None.
    recipe : the schedule and the optimizer's numbers (engine.recipe).
    seed : of the initial weights and of every random choice.
    input_size : side of the images in pixels.
    crop_ratio : share of the shorter side that a validation image keeps; None if images are not cropped.
    val_split : training images held out to choose the best epoch on; 0 chooses on the test images, as the authors did.
    dtype : 'float32', or 'float16', 'bfloat16' or 'tf32' products with float32 weights.
    devices : how many compute a step, over all workers; each takes the recipe's batch_size.
    start : the parameter file that the weights come from, as the command named it; None for weights from the seed.
    first_epoch : the epoch of the schedule at which a run with `start` begins.
    """

    model: str
    arguments: Tuple[Tuple[str, Any], ...]
    dataset: str
    recipe: Recipe
    label_mode: Optional[str] = None
    seed: int = 0
    input_size: int = 32
    crop_ratio: Optional[float] = None
    val_split: int = 0
    dtype: str = "float32"
    devices: int = 1
    start: Optional[str] = None
    first_epoch: int = 0

    SHAPE = {"model": TEXT, "arguments": {TEXT: (ARGUMENT, [ARGUMENT])}, "dataset": one_of(*DATASETS), "recipe": OBJECT,
             "label_mode": (NOTHING, one_of(*LABEL_MODES)), "seed": SEED, "input_size": SIDE,
             "crop_ratio": (NOTHING, ABOVE_0), "val_split": COUNT, "dtype": one_of(*DTYPES), "devices": SOME,
             "start": (NOTHING, LINES), "first_epoch": COUNT}

    def __post_init__(self):
        object.__setattr__(self, "arguments", _pairs(self.arguments))
        wrong = json_files.problem(self.as_json(), self.SHAPE) \
            or json_files.problem(self.net, {"classes": SOME}, "arguments")
        if wrong is None and (self.dataset == "cifar100") != (self.label_mode is not None):
            wrong = f"label_mode cannot be {self.label_mode} for {self.dataset}"
        if wrong is None and self.first_epoch >= self.recipe.epochs:
            wrong = f"first_epoch {self.first_epoch} leaves nothing of {self.recipe.epochs} epochs"
        if wrong:
            raise InputError(wrong)

    @property
    def net(self):
        """The keyword arguments of the net, as a dict."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.arguments}

    @property
    def classes(self):
        """Length of the net's output."""
        return self.net["classes"]

    @property
    def blocks(self):
        """The b of a CIFAR net; None for other nets."""
        return self.net.get("blocks")

    @property
    def data_name(self):
        """The data set with its labels: ``cifar10``, ``cifar100-coarse``."""
        return self.dataset + (f"-{self.label_mode}" if self.label_mode else "")

    @property
    def name(self):
        """The name of a run's folder: ``cifar10_atac_resnet20_v2_b3_seed0``."""
        size = "" if self.input_size in (32, 224) else str(self.input_size)
        blocks = f"_b{self.blocks}" if self.blocks else ""
        return f"{self.data_name}{size}_{self.model}{blocks}_seed{self.seed}"

    def numbers(self):
        """Everything by its name in one dict: the net and the data, then their arguments, the recipe and the rest."""
        fields = dict(vars(self))
        first = {name: fields.pop(name) for name in ("model", "dataset", "label_mode")}
        return {**first, **dict(fields.pop("arguments")), **vars(fields.pop("recipe")), **fields}

    def difference(self, other, whose="the other has"):
        """What differs first from another experiment, in words; None if they are equal."""
        own, others = self.numbers(), other.numbers()
        for name in {**own, **others}:
            if own.get(name) != others.get(name):
                return f"{name}={_text(own.get(name))} but {whose} {name}={_text(others.get(name))}"
        return None

    def as_json(self):
        """An object for JSON."""
        return {"format": FORMAT, **vars(self), "arguments": self.net, "recipe": self.recipe.as_json()}

    @classmethod
    def from_json(cls, value):
        """Back from `as_json`; absent fields take their defaults. Raises InputError that says what is wrong."""
        fields = fields_of(cls, format_of(value))
        return cls(**{**fields, "recipe": Recipe(**fields_of(Recipe, fields["recipe"]))})


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of a net after an epoch (from 0), each image counted once. accuracy, top5 : shares; loss : in nats."""

    epoch: int
    accuracy: float
    top5: float
    loss: float
    images: Optional[int] = None  # records of the first form lack it for the best epoch

    SHAPE = {"epoch": COUNT, "accuracy": SHARE, "top5": SHARE, "loss": NUMBER, "images": (NOTHING, SOME)}


@dataclasses.dataclass(frozen=True)
class Result:
    """What came out of a run that ended. Raises InputError for nonsense.

    data : variant, sha256, official, train_images and test_images of the data, and more of the loader's provenance.
    last, best : Score of the last and of the best epoch, on the test (CIFAR) or validation (ImageNet) images.
    chosen_on : the images that chose the best epoch: 'test', 'validation' or 'held-out'.
    held_out : the scores on the held-out images, {"last", "best"}; None if there are none, and in old records.
    seconds : time of training and scoring, without the steps repeated after an interruption.
    resumed : how often the run was interrupted and resumed.
    train_images_per_second : median over the epochs.
    operators : what computed the net, in words. environment : versions, hardware, revision. command : the last one.
    """

    experiment: Experiment
    data: dict
    last: Score
    best: Score
    chosen_on: str
    seconds: float
    resumed: int
    train_images_per_second: float
    operators: str
    environment: dict
    command: str
    held_out: Optional[dict] = None

    SHAPE = {"experiment": OBJECT,
             "data": {"variant": TEXT, "sha256": SHA256, "official": FLAG, "train_images": SOME, "test_images": SOME},
             "last": Score.SHAPE, "best": Score.SHAPE,
             "chosen_on": one_of(*CHOSEN_ON), "seconds": POSITIVE, "resumed": COUNT,
             "train_images_per_second": POSITIVE, "operators": LINES,
             "environment": {"processor": TEXT, "threads": (NOTHING, TEXT), "contexts": TEXT, "gpus": [TEXT],
                             "git_revision": (NOTHING, TEXT)},
             "command": LINES, "held_out": (NOTHING, {"last": Score.SHAPE, "best": Score.SHAPE})}

    def __post_init__(self):
        wrong = json_files.problem(self.as_json(), self.SHAPE)
        if wrong is None and self.held_out and self.chosen_on != "held-out":
            wrong = f"held_out has scores, but the epoch was chosen on the {self.chosen_on} images"
        if wrong is None and self.last.epoch != self.experiment.recipe.epochs - 1:
            wrong = f"its last epoch is {self.last.epoch}, of {self.experiment.recipe.epochs} from 0"
        if wrong:
            raise InputError(wrong)

    def as_json(self):
        """An object for JSON."""
        held_out = self.held_out and {which: vars(score) for which, score in self.held_out.items()}
        return {"format": FORMAT, **vars(self), "experiment": self.experiment.as_json(), "last": vars(self.last),
                "best": vars(self.best), "held_out": held_out}

    @classmethod
    def from_json(cls, value):
        """Back from `as_json`. Raises InputError that says what is wrong."""
        fields = fields_of(cls, format_of(value))
        held_out = fields.get("held_out")
        return cls(**{**fields, "experiment": Experiment.from_json(fields["experiment"]),
                      "held_out": held_out and {which: _score(held_out[which]) for which in ("last", "best")},
                      **{which: _score(fields[which]) for which in ("last", "best")}})


def _score(value):
    return Score(**fields_of(Score, value))


def format_of(value):
    """The object without its format. Raises InputError unless the format is this version's."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else value
        raise InputError(f"its format is {repr(found)[:60]}, and this version reads {FORMAT}")
    return {name: each for name, each in value.items() if name != "format"}


def fields_of(cls, value):
    """A JSON object as keyword arguments of a dataclass. Raises InputError unless names and values fit."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise InputError(f"{unknown[0]!r} is unknown to this version")
    missing = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in value]
    if missing:
        raise InputError(f"{missing[0]} is missing")
    shapes = getattr(cls, "SHAPE", {})
    wrong = json_files.problem(value, {name: shapes[name] for name in value if name in shapes})
    if wrong:
        raise InputError(wrong)
    return dict(value)


def _text(value):
    return value if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)
