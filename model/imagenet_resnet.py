"""The ImageNet host of Table II: ResNet-50, with the places in which the nets of Table IV differ.

Attribute names are those of the authors' files (docs/FIDELITY.md): conv1, bn1, layer1 to layer4, fc, downsample.
"""
from mxnet.gluon import HybridBlock, nn

from support import garbage
from support.errors import InputError

from .activation import ReLU, pointwise, truth, whole
from .checked import Checked, images_of

BLOCKS = (3, 4, 6, 3)  # of the four stages (Table II)
WIDTHS = (64, 128, 256, 512)  # inside their bottlenecks
EXPANSION = 4  # output channels of a bottleneck, over its width
STEM_CHANNELS = 64


def conv3x3(channels, stride=1, size=None):
    """The bottleneck's usual spatial layer: 3x3 convolution without bias."""
    return nn.Conv2D(channels, 3, stride, 1, use_bias=False, in_channels=channels)


def conv_stem(channels):
    """7x7 convolution with stride 2, and the 3x3 max pool with stride 2 that follows BN and ReLU."""
    return (nn.Conv2D(channels, 7, 2, 3, use_bias=False, in_channels=3), nn.MaxPool2D(3, 2, 1))


def activated_stages(unit, act_layers, rest=ReLU):
    """`unit` in some stages and `rest` in the others: a constructor for each stage, for ResNet50.

    act_layers: how many stages, counted from the last one (the authors' argument), or a list of stages, 1 to 4.
    Raises InputError for anything else.
    """
    every = range(1, len(BLOCKS) + 1)
    stages = act_layers
    if not isinstance(act_layers, (list, tuple)):
        if whole("act_layers", act_layers, least=0) > len(BLOCKS):
            raise InputError(f"act_layers counts the stages from the last one: 0 to {len(BLOCKS)}, got {act_layers}")
        stages = every[len(BLOCKS) - act_layers:]
    elif any(isinstance(stage, bool) or stage not in every for stage in stages) or len(set(stages)) < len(stages):
        raise InputError(f"a list of act_layers holds different stages, 1 to {len(BLOCKS)}, got {act_layers!r}")
    return [unit if stage in stages else rest for stage in every]


class Bottleneck(HybridBlock):
    """1x1, BN, AF, 3x3, BN, AF, 1x1, BN, refinement, plus the input (through 1x1, BN if shapes change), ReLU.

    Maps (N, in_channels, stride * size, stride * size) to (N, 4 width, size, size).

    activation: constructor of both AFs. spatial: constructor of the layer in place of the 3x3, called with channels,
    stride and size (the side of its output). refinement: a constructor or None. stride_first: the stride is on the
    first 1x1 (v1) instead of the 3x3 (v1b). last_gamma: the last BN's gamma starts at 0, so that the block starts as
    the identity.
    """

    def __init__(self, width, in_channels, stride, size, activation=ReLU, spatial=conv3x3, refinement=None,
                 stride_first=False, last_gamma=False, **kwargs):
        super().__init__(**kwargs)
        channels = EXPANSION * width
        strides = (stride, 1) if stride_first else (1, stride)
        with self.name_scope():
            self.conv1 = nn.Conv2D(width, 1, strides[0], use_bias=False, in_channels=in_channels)
            self.bn1 = nn.BatchNorm(in_channels=width)
            self.act1 = activation(width)
            self.conv2 = spatial(width, stride=strides[1], size=size)
            self.bn2 = nn.BatchNorm(in_channels=width)
            self.act2 = activation(width)
            self.conv3 = pointwise(channels, width)
            self.bn3 = nn.BatchNorm(in_channels=channels, gamma_initializer="zeros" if last_gamma else "ones")
            self.refine = refinement(channels, size=size) if refinement else None
            self.downsample = None
            if channels != in_channels or stride != 1:
                self.downsample = nn.HybridSequential(prefix="down_")
                with self.downsample.name_scope():
                    self.downsample.add(nn.Conv2D(channels, 1, stride, use_bias=False, in_channels=in_channels),
                                        nn.BatchNorm(in_channels=channels))

    def hybrid_forward(self, F, x):
        y = self.bn3(self.conv3(self.middle(self.conv1(x))))
        if self.refine is not None:
            y = self.refine(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))

    def middle(self, y):
        """BN, AF, 3x3, BN, AF: what is between the 1x1 convolutions."""
        y = self.act1(self.bn1(y))
        return self.act2(self.bn2(self.conv2(y)))


class ResNet50(Checked):
    """Stem, BN, ReLU, max pool, bottlenecks in stages of 3, 4, 6 and 3, global average pool, dense (Table II).

    Maps images (N, 3, S, S) to logits (N, classes). The ReLUs of the stem and after each addition are not activation
    sites: they stay.

    Parameters
    ----------
    classes : length of the logits.
    activation : one constructor for the two inner activations of all bottlenecks, or four, one for each stage; called
        with the channels.
    spatial : one constructor of the bottlenecks' spatial layer, or four; called with channels, stride and size.
    refinement : constructor of a module on every residual branch, called with channels and size; None for none.
    stem : function of the channels that returns the first layer, which maps images to (N, channels, ...), and the
        pool; together they reduce the side to a quarter.
    stride_first : False is v1b (stride on the 3x3), True is v1 [He et al. 2016] (on the first 1x1).
    last_gamma : start the last gamma of every bottleneck at 0 (the authors' --last-gamma).
    input_size : S, a multiple of 32; only gather-excite and augmented convolutions depend on it.

    Raises InputError for a wrong argument and, when called, for an array of another shape.
    """

    def __init__(self, classes=1000, activation=ReLU, spatial=conv3x3, refinement=None, stem=conv_stem,
                 stride_first=False, last_gamma=False, input_size=224, **kwargs):
        super().__init__(**kwargs)
        garbage.collect()
        whole("classes", classes)
        if whole("input_size", input_size) % 32:
            raise InputError(f"input_size must be a multiple of 32 (the net halves it five times), got {input_size}")
        truth("stride_first", stride_first)
        truth("last_gamma", last_gamma)
        activations, spatials = _per_stage("activation", activation), _per_stage("spatial", spatial)
        with self.name_scope():
            self.conv1, self.maxpool = stem(STEM_CHANNELS)
            self.bn1 = nn.BatchNorm(in_channels=STEM_CHANNELS)
            self.relu = nn.Activation("relu")
            before, size = STEM_CHANNELS, input_size // 4
            multiple = getattr(self.conv1, "divides", 1)
            for stage, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS), 1):
                layers = nn.HybridSequential(prefix=f"layer{stage}_")
                with layers.name_scope():
                    for block in range(blocks):
                        stride = 2 if stage > 1 and block == 0 else 1
                        size //= stride
                        layers.add(Bottleneck(width, before, stride, size, activations[stage - 1],
                                              spatials[stage - 1], refinement, stride_first, last_gamma))
                        before = EXPANSION * width
                        # In pixels: an output of a layer that halves its map covers input_size // size pixels.
                        if getattr(layers[-1].conv2, "divides", 1) > 1:
                            multiple = max(multiple, input_size // size)
                setattr(self, f"layer{stage}", layers)
            self.avgpool = nn.GlobalAvgPool2D()
            self.flat = nn.Flatten()
            self.fc = nn.Dense(classes, in_units=before)
        self.takes = images_of(self, input_size, 32, multiple)

    def hybrid_forward(self, F, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.flat(self.avgpool(x)))


def _per_stage(name, given):
    """Four constructors from one or four."""
    found = [given] * len(BLOCKS) if callable(given) else given
    if not isinstance(found, (list, tuple)) or len(found) != len(BLOCKS) or not all(map(callable, found)):
        raise InputError(f"{name} must be a constructor or a list of {len(BLOCKS)}, one a stage, got {given!r}")
    return found
