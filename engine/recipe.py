"""A training run's numbers as one frozen object, and the paper's values for them."""
import dataclasses
import math
from typing import Tuple

from support.errors import InputError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides a training beside the net, the data and the seed. Raises InputError for nonsense.

    The optimizer is NAG. batch_size is per device. Epochs are counted from 0; a decay takes effect at the start of
    its epoch. lr_decay_period > 0 decays every so many epochs in the place of lr_decay_epochs. no_wd takes gamma,
    beta and bias out of the weight decay.
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

    def __post_init__(self):
        object.__setattr__(self, "lr_decay_epochs", tuple(self.lr_decay_epochs))
        for name, least in (("epochs", 1), ("batch_size", 1), ("lr_decay_period", 0), ("warmup_epochs", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("lr", "momentum", "wd", "lr_decay", "warmup_lr"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name} must be a finite number of at least 0, got {getattr(self, name)}")
        if self.momentum >= 1:
            raise InputError(f"momentum must be below 1, got {self.momentum}")
        if self.lr_mode not in ("step", "cosine"):
            raise InputError(f"lr_mode is 'step' or 'cosine', got {self.lr_mode!r}")
        if any(epoch < 1 for epoch in self.lr_decay_epochs) \
                or list(self.lr_decay_epochs) != sorted(set(self.lr_decay_epochs)):
            raise InputError(f"lr_decay_epochs must be rising epochs of at least 1, got {list(self.lr_decay_epochs)}")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise InputError(f"warmup_epochs={self.warmup_epochs} leaves nothing of {self.epochs} epochs")

    def scaled(self, epochs):
        """The same recipe in another number of epochs, its decays and warmup moved in proportion.

        Decays that fall together or behind the end, as they do in very few epochs, are lost.
        """
        decays = sorted({max(1, epoch * epochs // self.epochs) for epoch in self.lr_decay_epochs} - {epochs})
        return dataclasses.replace(self, epochs=epochs, lr_decay_epochs=tuple(decays),
                                   lr_decay_period=math.ceil(self.lr_decay_period * epochs / self.epochs),
                                   warmup_epochs=self.warmup_epochs * epochs // self.epochs)


# Section IV-A of the paper; momentum, and weight decay on all parameters, from the authors' code.
CIFAR_PAPER = Recipe(epochs=400, batch_size=128, lr=0.2, momentum=0.9, wd=1e-4, lr_decay=0.1,
                     lr_decay_epochs=(300, 350))
