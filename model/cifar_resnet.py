"""The CIFAR host of Table II: ResNet-20-v2 with b blocks in each stage and an activation constructor for each site."""
from typing import NamedTuple

from mxnet.gluon import nn

from support import garbage
from support.errors import InputError

from .activation import ReLU, whole
from .checked import Checked, Takes, images_of

CHANNELS = (16, 32, 64)  # of the three stages (Table II)


class Site(NamedTuple):
    """A place of an activation in the host: its name (``s3b1.act2``, ``head``), stage (None for the head), channels."""

    name: str
    stage: int
    channels: int


def sites(blocks):
    """The host's 6b+1 activation sites in the order of the data flow."""
    whole("blocks", blocks)
    found = []
    before = CHANNELS[0]
    for stage, channels in enumerate(CHANNELS, 1):
        for block in range(1, blocks + 1):
            found += [Site(f"s{stage}b{block}.act1", stage, before),
                      Site(f"s{stage}b{block}.act2", stage, channels)]
            before = channels
    return found + [Site("head", None, before)]


def replace_sites(blocks, unit, count, start="last", rest=ReLU):
    """Layer-wise replacement (Figure 6): `unit` at `count` sites, counted from the last or the first; `rest` elsewhere.

    Returns the 6b+1 constructors in the order of `sites`.
    """
    total = len(sites(blocks))
    if whole("the number of replaced sites", count, least=0) > total:
        raise InputError(f"{count} sites cannot be replaced: the host with blocks={blocks} has {total}")
    if start == "last":
        return [rest] * (total - count) + [unit] * count
    if start == "first":
        return [unit] * count + [rest] * (total - count)
    raise InputError(f"replacement starts at 'last' or 'first', got {start!r}")


def replace_stages(blocks, unit, act_layers, act_order="bac", rest=ReLU):
    """The authors' stage-wise replacement: their arguments act_layers (0..4) and act_order ('bac' or 'pre').

    'bac' goes backward: 1 the head, 2 stage 3 too, 3 stage 2 too, 4 all. 'pre' goes forward: the first act_layers
    stages, the head only at 4. Returns the 6b+1 constructors in the order of `sites`.
    """
    if whole("act_layers", act_layers, least=0) > 4:
        raise InputError(f"act_layers counts the head and the three stages: 0 to 4, got {act_layers}")
    if act_order == "bac":
        replaced = (None, 3, 2, 1)[:act_layers]
    elif act_order == "pre":
        replaced = (1, 2, 3, None)[:act_layers]
    else:
        raise InputError(f"act_order is 'bac' (from the head backward) or 'pre' (from stage 1), got {act_order!r}")
    return [unit if site.stage in replaced else rest for site in sites(blocks)]


class BasicBlockV2(Checked):
    """BN, AF, 3x3, BN, AF, 3x3, refinement, plus the input (through a bare 1x1 if the channels change).

    activations: two constructors, for in_channels and for channels. refinement: a constructor or None.
    """

    def __init__(self, channels, in_channels, stride, size, activations, refinement=None, **kwargs):
        super().__init__(**kwargs)
        self.takes = Takes(in_channels, block="block")
        first, second = activations
        with self.name_scope():
            self.bn1 = nn.BatchNorm(in_channels=in_channels)
            self.act1 = first(in_channels)
            self.conv1 = nn.Conv2D(channels, 3, stride, 1, use_bias=False, in_channels=in_channels)
            self.bn2 = nn.BatchNorm(in_channels=channels)
            self.act2 = second(channels)
            self.conv2 = nn.Conv2D(channels, 3, 1, 1, use_bias=False, in_channels=channels)
            self.refine = refinement(channels, size=size) if refinement else None
            self.downsample = None
            if channels != in_channels:
                self.downsample = nn.Conv2D(channels, 1, stride, use_bias=False, in_channels=in_channels)

    def hybrid_forward(self, F, x):
        y = self.conv1(self.act1(self.bn1(x)))
        y = self.conv2(self.act2(self.bn2(y)))
        if self.refine is not None:
            y = self.refine(y)
        return y + (x if self.downsample is None else self.downsample(x))


class Features(Checked, nn.HybridSequential):
    """The host without its dense layer."""


class CIFARResNetV2(Checked):
    """BN without gamma and beta, 3x3, three stages of b blocks, BN, AF, global average pool, dense (Table II).

    Maps images (N, 3, S, S) to logits (N, classes).

    Parameters
    ----------
    blocks : b, blocks in each stage; b = 3 is ResNet-20.
    classes : length of the logits.
    activation : one constructor for all sites, or 6b+1 of them in the order of `sites(blocks)`; each is called with
        the channels of its site.
    refinement : constructor of a module on every residual branch, called with channels and size; None for none.
    input_size : S, a multiple of 4; only gather-excite depends on it.

    Raises InputError for a wrong argument and, when called, for an array of another shape.
    """

    def __init__(self, blocks=3, classes=10, activation=ReLU, refinement=None, input_size=32, **kwargs):
        super().__init__(**kwargs)
        garbage.collect()
        whole("blocks", blocks)
        whole("classes", classes)
        if whole("input_size", input_size) % 4:
            raise InputError(f"input_size must be a multiple of 4 (two stages halve it), got {input_size}")
        total = len(sites(blocks))
        activations = [activation] * total if callable(activation) else activation
        if not isinstance(activations, (list, tuple)) or not all(map(callable, activations)):
            raise InputError("activation must be a constructor, or a list of constructors with one for each site, "
                             f"got {activation!r}")
        if len(activations) != total:
            raise InputError(f"blocks={blocks} has {total} activation sites, got {len(activations)} constructors")

        with self.name_scope():
            self.features = Features(prefix="")
            self.features.add(nn.BatchNorm(scale=False, center=False, in_channels=3),
                              nn.Conv2D(CHANNELS[0], 3, 1, 1, use_bias=False, in_channels=3))
            remaining, before, size = iter(activations), CHANNELS[0], input_size
            for stage, channels in enumerate(CHANNELS, 1):
                layers = nn.HybridSequential(prefix=f"stage{stage}_")
                with layers.name_scope():
                    for block in range(blocks):
                        stride = 2 if stage > 1 and block == 0 else 1
                        size //= stride
                        layers.add(BasicBlockV2(channels, before, stride, size,
                                                (next(remaining), next(remaining)), refinement))
                        before = channels
                self.features.add(layers)
            self.features.add(nn.BatchNorm(in_channels=before), next(remaining)(before),
                              nn.GlobalAvgPool2D(), nn.Flatten())
            self.output = nn.Dense(classes, in_units=before)
        self.takes = self.features.takes = images_of(self, input_size, sizes=4)

    def hybrid_forward(self, F, x):
        return self.output(self.features(x))
