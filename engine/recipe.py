"""A training run's numbers as one frozen object, and the paper's values for them."""
import dataclasses
import math
from typing import Tuple

from support.errors import InputError
from support.words import counted


def _fits(value, kind):
    """Whether a value, which may come from JSON, can stand for one of this type; a bool is not a number."""
    return isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)


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

    def __post_init__(self):
        object.__setattr__(self, "lr_decay_epochs", tuple(self.lr_decay_epochs))
        for field in dataclasses.fields(self):  # the value may come from a file
            value = getattr(self, field.name)
            if not all(_fits(part, int) for part in value) if field.name == "lr_decay_epochs" \
                    else not _fits(value, field.type):
                raise InputError(f"{field.name} cannot be {value!r}")
        for name, least in (("epochs", 1), ("batch_size", 1), ("lr_decay_period", 0), ("warmup_epochs", 0),
                            ("mixup_off_epochs", 0), ("accumulate", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("lr", "momentum", "wd", "lr_decay", "warmup_lr", "label_smoothing", "mixup_alpha"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name} must be a finite number of at least 0, got {getattr(self, name)}")
        if self.momentum >= 1:
            raise InputError(f"momentum must be below 1, got {self.momentum}")
        if self.label_smoothing >= 1:
            raise InputError(f"label_smoothing is a share below 1, got {self.label_smoothing}")
        if self.mixup_off_epochs and not self.mixup_alpha:
            raise InputError("mixup_off_epochs needs mixup_alpha: without it nothing is mixed")
        if self.batch_size % self.accumulate:
            raise InputError(f"a batch of {self.batch_size} cannot be cut into {self.accumulate} equal parts: "
                             "accumulate must divide batch_size")
        if self.lr_mode not in ("step", "cosine"):
            raise InputError(f"lr_mode is 'step' or 'cosine', got {self.lr_mode!r}")
        if any(epoch < 1 for epoch in self.lr_decay_epochs) \
                or list(self.lr_decay_epochs) != sorted(set(self.lr_decay_epochs)):
            raise InputError(f"lr_decay_epochs must be rising epochs of at least 1, got {list(self.lr_decay_epochs)}")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise InputError(f"warmup_epochs={self.warmup_epochs} leaves nothing of {counted(self.epochs, 'epoch')}")

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
