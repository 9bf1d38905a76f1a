"""PyTorch twins of the Gluon nets: the same layers under the same attribute paths, so that arrays are copied by name.

They map images (N, 3, S, S) to logits (N, classes). `load` copies the arrays of a Gluon net.
"""
import functools

import torch
from torch import nn

CHANNELS = (16, 32, 64)


# ---- Units: unit(channels), as in model/activation.py

def scalar(constructor, *arguments):
    """A unit for an activation that does not depend on channels."""
    return lambda channels: constructor(*arguments)


class Gated(nn.Module):
    """gate(x) * x."""

    def __init__(self, *layers):
        super().__init__()
        self.gate = nn.Sequential(*layers)

    def forward(self, x):
        return x * self.gate(x)


class Function(nn.Module):
    """A module that applies a function of one array."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def pointwise(channels, in_channels, bias=False):
    return nn.Conv2d(in_channels, channels, 1, bias=bias)


def attention(channels, reduction):
    """1x1, BN, ReLU, 1x1, BN, sigmoid."""
    inner = channels // reduction
    return [pointwise(inner, channels), nn.BatchNorm2d(inner), nn.ReLU(), pointwise(channels, inner),
            nn.BatchNorm2d(channels), nn.Sigmoid()]


def atac(channels, reduction=2):
    return Gated(*attention(channels, reduction))


def seactivation(channels, reduction=2):
    return Gated(nn.AdaptiveAvgPool2d(1), *attention(channels, reduction))


def xunit(channels, kernel_size=9):
    return Gated(nn.BatchNorm2d(channels), nn.ReLU(),
                 nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels),
                 nn.BatchNorm2d(channels), Function(lambda x: torch.exp(-x * x)))


def nin(channels, reduction=2):
    inner = channels // reduction
    return nn.Sequential(nn.ReLU(), pointwise(inner, channels), nn.BatchNorm2d(inner), nn.ReLU(),
                         pointwise(channels, inner), nn.BatchNorm2d(channels), nn.ReLU())


# ---- Refinements: refinement(channels, size), as in model/refine.py

def localsenet(channels, size, reduction=1):
    return Gated(*attention(channels, reduction))


def senet(channels, size, reduction=16):
    inner = channels // reduction
    return Gated(nn.AdaptiveAvgPool2d(1), pointwise(inner, channels, True), nn.ReLU(),
                 pointwise(channels, inner, True), nn.Sigmoid())


def genet(channels, size):
    return Gated(nn.Conv2d(channels, channels, size, groups=channels, bias=False), nn.BatchNorm2d(channels),
                 nn.Sigmoid())


UNITS = {
    "resnet20_v2": scalar(nn.ReLU), "prelu_resnet20_v2": scalar(nn.PReLU), "selu_resnet20_v2": scalar(nn.SELU),
    "gelu_resnet20_v2": scalar(nn.GELU), "swish_resnet20_v2": scalar(nn.SiLU), "xunit_resnet20_v2": xunit,
    "atac_resnet20_v2": atac, "seactivation_resnet20_v2": seactivation, "nin_resnet20_v2": nin,
}
REFINEMENTS = {"localsenet_resnet20_v2": localsenet, "senet_resnet20_v2": senet, "genet_resnet20_v2": genet}


# ---- Hosts

class BasicBlockV2(nn.Module):
    """BN, AF, 3x3, BN, AF, 3x3, refinement, plus the input."""

    def __init__(self, channels, in_channels, stride, size, unit, refinement):
        super().__init__()
        self.bn1, self.act1 = nn.BatchNorm2d(in_channels), unit(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2, self.act2 = nn.BatchNorm2d(channels), unit(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.refine = refinement(channels, size) if refinement else nn.Identity()
        self.downsample = nn.Identity()
        if channels != in_channels:
            self.downsample = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x):
        y = self.conv1(self.act1(self.bn1(x)))
        return self.refine(self.conv2(self.act2(self.bn2(y)))) + self.downsample(x)


class CIFARResNetV2(nn.Module):
    """The host of model/cifar_resnet.py."""

    def __init__(self, unit, refinement=None, blocks=3, classes=10):
        super().__init__()
        layers, before, size = [nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 16, 3, 1, 1, bias=False)], 16, 32
        for stage, channels in enumerate(CHANNELS):
            members = []
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                size //= stride
                members.append(BasicBlockV2(channels, before, stride, size, unit, refinement))
                before = channels
            layers.append(nn.Sequential(*members))
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(before), unit(before), nn.AdaptiveAvgPool2d(1),
                                      nn.Flatten())
        self.output = nn.Linear(before, classes)

    def forward(self, x):
        return self.output(self.features(x))


class Bottleneck(nn.Module):
    """1x1, BN, AF, 3x3, BN, AF, 1x1, BN, plus the input, ReLU."""

    def __init__(self, width, in_channels, stride, unit):
        super().__init__()
        channels = 4 * width
        self.conv1, self.bn1, self.act1 = pointwise(width, in_channels), nn.BatchNorm2d(width), unit(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2, self.act2 = nn.BatchNorm2d(width), unit(width)
        self.conv3, self.bn3 = pointwise(channels, width), nn.BatchNorm2d(channels)
        self.downsample = nn.Identity()
        if channels != in_channels or stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False),
                                            nn.BatchNorm2d(channels))

    def forward(self, x):
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet50(nn.Module):
    """The host of model/imagenet_resnet.py (v1b); units: one constructor per stage."""

    def __init__(self, units, classes=1000):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = 64
        for stage, (blocks, width, unit) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), units), 1):
            members = []
            for block in range(blocks):
                members.append(Bottleneck(width, before, 2 if stage > 1 and not block else 1, unit))
                before = 4 * width
            setattr(self, f"layer{stage}", nn.Sequential(*members))
        self.fc = nn.Linear(before, classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


relu = UNITS["resnet20_v2"]
TWINS = {
    **{name: functools.partial(CIFARResNetV2, unit) for name, unit in UNITS.items()},
    **{name: functools.partial(CIFARResNetV2, relu, refinement) for name, refinement in REFINEMENTS.items()},
    "resnet50_v1b": functools.partial(ResNet50, [relu] * 4),
    "atac_resnet50_v1b": functools.partial(ResNet50, [relu, relu, atac, atac]),
}


# ---- Arrays

def load(net, arrays):
    """Copy all of a Gluon net's arrays (structural name to NumPy array) into its twin. ValueError if the names differ.

    In Gluon a BatchNorm without gamma and beta stores them as constants; its twin has none.
    """
    state = net.state_dict()
    constants = {f"{name}.{kind}" for name, module in net.named_modules()
                 if isinstance(module, nn.BatchNorm2d) and not module.affine for kind in ("gamma", "beta")}
    renamed = {_twin_name(name): torch.from_numpy(array) for name, array in arrays.items() if name not in constants}
    missing = {name for name in state if not name.endswith("num_batches_tracked")} ^ set(renamed)
    if missing:
        raise ValueError(f"the twin and the net differ in {len(missing)} arrays: {', '.join(sorted(missing)[:4])}")
    net.load_state_dict(renamed, strict=False)


def _twin_name(name):
    path, _, kind = name.rpartition(".")
    return f"{path}.{ {'gamma': 'weight', 'beta': 'bias', 'alpha': 'weight'}.get(kind, kind)}"
