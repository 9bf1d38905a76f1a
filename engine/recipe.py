"""A training run's numbers as one frozen object, and the paper's values for them."""
import dataclasses
import math
from typing import Tuple

from support import json_files
from support.errors import InputError
from support.json_files import COUNT, FLAG, POSITIVE, SOME, Kind
from support.words import counted

BELOW_1 = Kind("a number of at least 0 and below 1", lambda value: POSITIVE.holds(value) and value < 1)


def one_of(*values):
    """The Kind of a value that is one of a few."""
    return Kind(f"one of {', '.join(values)}", lambda value: value in values)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides a training except the net, the data and the seed. Raises InputError for nonsense.

    The optimizer is NAG. batch_size is per device. Epochs count from 0; a decay takes effect at the start of its epoch.
    lr_decay_period > 0 decays every so many epochs instead of at lr_decay_epochs. no_wd takes gamma, beta and bias out
    of the weight decay. label_smoothing is the share of the target that is spread over all classes. mixup_alpha > 0
    mixes each batch with itself, with a share from Beta(alpha, alpha), except in the last mixup_off_epochs.
    accumulate is the number of equal parts in which a device computes its batch, one after the other.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    wd: float
    no_wd: bool = False
    lr_mode: str = "step"
    lr_decay: float = 0.1
    lr_decay_epochs: Tuple[int, ...] = ()
    lr_decay_period: int = 0
    warmup_epochs: int = 0
    warmup_lr: float = 0.0
    # Later fields: a checkpoint without them was trained with these defaults.
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    mixup_off_epochs: int = 0
    accumulate: int = 1

    SHAPE = {"epochs": SOME, "batch_size": SOME, "lr": POSITIVE, "momentum": BELOW_1, "wd": POSITIVE, "no_wd": FLAG,
             "lr_mode": one_of("step", "cosine"), "lr_decay": POSITIVE, "lr_decay_epochs": [SOME],
             "lr_decay_period": COUNT, "warmup_epochs": COUNT, "warmup_lr": POSITIVE, "label_smoothing": BELOW_1,
             "mixup_alpha": POSITIVE, "mixup_off_epochs": COUNT, "accumulate": SOME}

    def __post_init__(self):
        object.__setattr__(self, "lr_decay_epochs", tuple(self.lr_decay_epochs))
        wrong = json_files.problem(self.as_json(), self.SHAPE)
        if wrong:
            raise InputError(wrong)
        if self.mixup_off_epochs and not self.mixup_alpha:
            raise InputError("mixup_off_epochs needs mixup_alpha: without it nothing is mixed")
        if self.batch_size % self.accumulate:
            raise InputError(f"a batch of {self.batch_size} cannot be cut into {self.accumulate} equal parts: "
                             "accumulate must divide batch_size")
        if list(self.lr_decay_epochs) != sorted(set(self.lr_decay_epochs)):
            raise InputError(f"lr_decay_epochs must rise, got {list(self.lr_decay_epochs)}")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise InputError(f"warmup_epochs={self.warmup_epochs} leaves nothing of {counted(self.epochs, 'epoch')}")

    def as_json(self):
        """An object for JSON."""
        return {**vars(self), "lr_decay_epochs": list(self.lr_decay_epochs)}

    def scaled(self, epochs):
        """The same recipe in another number of epochs, its decays and warmup moved in proportion.

        In very few epochs some decays coincide or come after the end; those are lost.
        """
        decays = sorted({max(1, epoch * epochs // self.epochs) for epoch in self.lr_decay_epochs} - {epochs})
        return dataclasses.replace(self, epochs=epochs, lr_decay_epochs=tuple(decays),
                                   lr_decay_period=math.ceil(self.lr_decay_period * epochs / self.epochs),
                                   warmup_epochs=self.warmup_epochs * epochs // self.epochs,
                                   mixup_off_epochs=self.mixup_off_epochs * epochs // self.epochs)


# Section IV-A of the paper; momentum, and weight decay on all parameters, from the authors' code.
CIFAR_PAPER = Recipe(epochs=400, batch_size=128, lr=0.2, momentum=0.9, wd=1e-4, lr_decay=0.1,
                     lr_decay_epochs=(300, 350))

# The authors' script: the side of ImageNet's images, and the share of the shorter side that a validation image keeps.
INPUT_SIZE, CROP_RATIO = 224, .875
HALVINGS = 32  # a ResNet-50 halves the side of its images five times

# Section IV-A: "no weight decay", 256 images on two GPUs; momentum from the authors' code.
IMAGENET_PAPER = Recipe(epochs=160, batch_size=128, lr=0.075, momentum=0.9, wd=0.0, lr_decay=0.1,
                        lr_decay_epochs=(40, 60))

# The authors' command and log of the released checkpoint. Weight decay, momentum and the decays, which only --lr-mode
# step would use, are their script's defaults.
IMAGENET_RELEASED = Recipe(epochs=160, batch_size=128, lr=0.075, momentum=0.9, wd=1e-4, no_wd=True, lr_mode="cosine",
                           lr_decay_epochs=(40, 60), warmup_epochs=5, label_smoothing=0.1)
