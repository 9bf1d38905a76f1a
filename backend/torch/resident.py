"""A data set in memory that lies on the device as bytes: its batches are made there, to the bit those of the host."""
import numpy as np
import torch
from torch.nn import functional as F

from engine.data.in_memory import PAD, SCALE, SHIFT, SIDE

from .placement import array


class Images:
    """The images and labels of a Split (engine.data.in_memory) on a device."""

    def __init__(self, split, device):
        self.split, self.device = split, device
        self.images = torch.tensor(split.images, device=device)
        self.labels = torch.tensor(split.labels, dtype=torch.int64, device=device)
        self._padded = None  # for crops
        self._scale, self._shift = (torch.tensor(each, device=device) for each in (SCALE, SHIFT))

    def drawn(self, draws):
        """The batch of some Draws: float32 (B, 3, 32, 32), int64 (B,)."""
        if self._padded is None:
            self._padded = F.pad(self.images, (PAD,) * 4)
        chosen, y, x, mirrored = self._moved(np.stack([each.astype(np.int64) for each in draws]))
        span, colour = torch.arange(SIDE, device=self.device), torch.arange(3, device=self.device)
        rows = y[:, None] + span
        columns = x[:, None] + torch.where(mirrored[:, None] > 0, SIDE - 1 - span, span)
        images = self._padded[chosen[:, None, None, None], colour[:, None, None], rows[:, None, :, None],
                              columns[:, None, None, :]]
        return self._normal(images), self.labels[chosen]

    def in_order(self, size):
        """All images in batches of at most `size`: (float32 images, their labels, which stay on the host)."""
        for start in range(0, len(self.images), size):
            yield self._normal(self.images[start:start + size]), self.split.labels[start:start + size]

    def _moved(self, numbers):
        return array(numbers, self.device).to(self.device, non_blocking=True)

    def _normal(self, images):
        return (images.float() * self._scale).add_(self._shift)  # two roundings, as NumPy does it


class Residents:
    """The Images of every Split that was asked for."""

    def __init__(self, device):
        self.device, self._images = device, {}

    def of(self, batches):
        """The Images of batches in memory; None for batches that are read from files."""
        split = getattr(batches, "split", None)
        if split is None:
            return None
        if id(split) not in self._images:
            self._images[id(split)] = Images(split, self.device)  # it keeps split, and with it the id
        return self._images[id(split)]
