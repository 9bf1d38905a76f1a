"""Every unit, module and net, declared once; imports no MXNet, so that flags are answered before it loads.

A net is a host with a part in it. Names, constructors, arguments with their flags, README's table, the figures, the
benchmarks and the operators' dispatch all come from here. To add a unit: its class in activation.py, a Part in CIFAR
below, a row in tests/test_zoo.py.
"""
import importlib
from dataclasses import dataclass, field, replace
from typing import Any, Mapping, NamedTuple, Optional

from support import palette
from support.errors import InputError
from support.names import nearest


class Argument(NamedTuple):
    """A keyword argument of get_model; if it has a help text, the programs have a flag for it."""

    default: Any
    help: Optional[str] = None
    kind: type = int
    least: Optional[int] = None  # limits of a number in a flag
    most: Optional[int] = None
    choices: Optional[tuple] = None
    metavar: Optional[str] = None
    also: Optional[str] = None  # another spelling of the flag


class Place(NamedTuple):
    """A part's place in its host: the function of model/ that puts it there, and that function's arguments."""

    build: str
    arguments: Mapping[str, Argument] = {}


SITES = Place("zoo.at_sites", {
    "replaced_sites": Argument(None, "layer-wise replacement of K of the 6b+1 sites", least=0, metavar="K"),
    "replace_from": Argument(None, "where layer-wise replacement starts", str, choices=("last", "first")),
    "act_layers": Argument(None, "stage-wise replacement: 1 head, 2 + stage 3, 3 + stage 2, 4 everything", least=0,
                           metavar="N"),
    "act_order": Argument(None, "stage-wise replacement from the head backward (bac) or from stage 1 (pre)", str,
                          choices=("bac", "pre")),
    "replace_act": Argument(None, "unit of the sites that are not replaced (default relu)", str, metavar="UNIT")})


@dataclass(frozen=True, eq=False)
class Part:
    """What a host is built with: a unit, a module of a branch or a spatial layer."""

    name: str  # comes before the host's name in the net's name
    path: Optional[str]  # its class, ``module.Class`` of model/
    label: str = ""  # its name in the paper's tables and figures
    meaning: str = ""  # in README's table
    color: Optional[str] = None  # in figures, with its marker; None if the paper's figures do not show it
    marker: Optional[str] = None
    arguments: Mapping[str, Argument] = field(default_factory=dict)  # of its class, with the same defaults
    operator: Optional[str] = None  # computes it in ops/, with numbers of the built unit
    authors: Optional[str] = None  # its --act-type on the authors' command line
    short: bool = False  # whether --model takes the name alone
    place: Place = SITES
    variants: Optional[Mapping[str, "Part"]] = None  # built in its place, by the argument `variant`

    @property
    def constructor(self):
        """The class; loads MXNet."""
        return resolve(self.path)

    def module(self, arguments):
        """The part that is built for a net's arguments: this one or one of its variants. Raises InputError."""
        if self.variants is None:
            return self
        variant = arguments.get("variant", self.place.arguments["variant"].default)
        if variant not in list(self.variants):
            raise InputError(f"unknown gather-excite variant {variant!r}; the variants are {', '.join(self.variants)}")
        return self.variants[variant]


@dataclass(frozen=True, eq=False)
class Host:
    """A network with places for a part."""

    name: str
    title: str
    path: str  # its class, ``module.Class`` of model/
    image_size: int
    arguments: Mapping[str, Argument]
    parts: Mapping[str, Part]  # by name; the net of the first one has the host's own name
    start: Mapping[str, Argument] = field(default_factory=dict)  # arguments that say how its weights start
    fixed: Mapping[str, Any] = field(default_factory=dict)  # arguments of the class that follow from the host's name

    def model(self, part):
        """The name of the net with the part of this name."""
        return self.name if part == next(iter(self.parts)) else f"{part}_{self.name}"

    @property
    def short(self):
        """{short name: name} of the nets that --model also takes by their part's name."""
        return {name: self.model(name) for name, part in self.parts.items() if part.short}


class Net(NamedTuple):
    """The meaning of a name of get_model."""

    host: Host
    part: Part

    def arguments(self, given):
        """{name: Argument} of the net, for the given variant. Raises InputError for an unknown variant."""
        return {**self.host.arguments, **self.part.place.arguments, **self.host.start,
                **self.part.module(given).arguments}


def resolve(path):
    """The object ``module.name`` of model/; loads MXNet."""
    module, name = path.split(".")
    return getattr(importlib.import_module(f"{__package__}.{module}"), name)


def _by_name(*parts):
    return {part.name: part for part in parts}


def _reduction(default):
    return Argument(default, "channel reduction ratio", least=1, metavar="R", also="--r")


def _gather_excite(variant, size):
    """On every residual branch, as one of the variants, for images of this side."""
    return Place("zoo.on_branches", {
        "variant": Argument(variant, "the variant of gather-excite", str, choices=tuple(GATHER_EXCITE)),
        "input_size": Argument(size)})


GATE = {"reduction": _reduction(2), "inner_relu": Argument(True)}
GATHER_EXCITE = _by_name(
    Part("theta_minus", "refine.GEThetaMinus", meaning="GENet, theta-minus", operator="theta_minus"),
    Part("theta", "refine.GETheta", meaning="GENet, theta", operator="theta"),
    Part("theta_plus", "refine.GEThetaPlus", meaning="GENet, theta-plus", arguments={"reduction": _reduction(16)},
         operator="theta_plus"))
STEMS = {"attention": "self_attention.attention_stem", "conv": "imagenet_resnet.conv_stem"}

BRANCHES = Place("zoo.on_branches")

ATAC = Part("atac", "activation.ATAC", "ATAC", "**ATAC**, r = 2", palette.VERMILLION, "o", GATE,
            operator="atac {unit.inner_relu:d}", authors="ChaATAC", short=True)
SENET = Part("senet", "refine.SE", "SENet", "SENet, r = 16", palette.BLUE, "^", {"reduction": _reduction(16)},
             operator="se", short=True, place=BRANCHES)
GENET = Part("genet", None, "GENet", color=palette.GREEN, marker="D", short=True, place=_gather_excite("theta", 32),
             variants=GATHER_EXCITE)

CIFAR = Host(
    "resnet20_v2", "ResNet-20-v2", "cifar_resnet.CIFARResNetV2", 32, {
        "blocks": Argument(3, "blocks in each stage (default 3)", least=1, most=1000, metavar="B"),
        "classes": Argument(10, "length of the output (default 10 for CIFAR-10, 100 for CIFAR-100 in both label modes)",
                            least=1, most=100_000, metavar="K")},
    _by_name(  # in the order of README's table
        Part("relu", "activation.ReLU", "ReLU", "ReLU, the host", palette.BLACK, "s", operator="relu", authors="relu"),
        Part("leakyrelu", "activation.LeakyReLU", "LeakyReLU", "LeakyReLU, slope 0.1",
             arguments={"alpha": Argument(0.1, "slope where x < 0", float, metavar="X")},
             operator="leakyrelu {unit._alpha!r}"),
        Part("prelu", "activation.PReLU", "PReLU", "PReLU, one learned slope a site", palette.ORANGE, "X",
             operator="prelu", authors="prelu"),
        Part("elu", "activation.ELU", "ELU", "ELU",
             arguments={"alpha": Argument(1.0, "scale where x < 0", float, metavar="X")},
             operator="elu {unit._alpha!r}", authors="elu"),
        Part("selu", "activation.SELU", "SELU", "SELU", palette.SKY, "v", operator="selu", authors="selu"),
        Part("gelu", "activation.GELU", "GELU", "GELU (erf)", palette.PURPLE, "P", operator="gelu",
             authors="gelu"),
        Part("swish", "activation.Swish", "Swish", "Swish", palette.BLUE, "^",
             {"beta": Argument(1.0, "beta, the factor inside the sigmoid", float, metavar="X")},
             operator="swish {unit._beta!r}", authors="swish"),
        Part("sine", "activation.Sine", "Sine", "sin(x) (SIREN)"),
        Part("xunit", "activation.XUnit", "xUnit", "xUnit, 9x9", palette.GREEN, "D",
             {"kernel_size": Argument(9, "depthwise kernel", least=1, most=1001, metavar="K")}, operator="xunit",
             authors="xunit"),
        ATAC,
        Part("seactivation", "activation.SEActivation", "SEActivation",
             "SEActivation, r = 2: ATAC after a global average pool", palette.ORANGE, "v", GATE,
             operator="seactivation {unit.inner_relu:d}", authors="ChaATAC --useGlobal"),
        Part("nin", "activation.NiN", "NiN", "NiN block at every site", palette.GREEN, "D",
             {"reduction": _reduction(2),
              "layers": Argument(2, "number of 1x1 convolutions: 2 or 1", least=1, metavar="N")},
             operator="nin", short=True),
        Part("localsenet", "refine.LocalSE", "LocalSENet",
             "LocalSENet, r = 1: ATAC's module after every block", palette.BLUE, "^", {"reduction": _reduction(1)},
             operator="atac {unit.inner_relu:d}", short=True, place=BRANCHES),
        SENET,
        GENET))

# The places of ResNet-50.
PLAIN = Place("zoo.plain")
LAST_STAGES = Place("zoo.in_last_stages", {
    "act_layers": Argument(2, "the unit in the last N stages of ResNet-50; 2: stages 3 and 4", least=0, metavar="N")})
LATER_STAGES = Place("zoo.in_later_stages", {"input_size": Argument(224)})
EVERYWHERE = Place("zoo.everywhere", {"stem": Argument("attention", "first layers", str, choices=tuple(STEMS))})

IMAGENET = Host(
    "resnet50_v1b", "ResNet-50", "imagenet_resnet.ResNet50", 224, {
        "classes": Argument(1000, "length of the output (default 1000 for ImageNet)", least=1, most=100_000,
                            metavar="K")},
    _by_name(  # in the order of Table IV
        Part("resnet50", "activation.ReLU", "ResNet-50", short=True, place=PLAIN),
        replace(SENET, name="se", label="SE-ResNet-50"),
        Part("aa", "self_attention.AugmentedConv", "AA-ResNet-50", short=True, place=LATER_STAGES, arguments={
            "heads": Argument(8), "key_channels": Argument(160), "value_ratio": Argument(0.1),
            "largest_map": Argument(14), "use_bias": Argument(True)}),
        Part("fa", "self_attention.LocalAttention", "FA-ResNet-50", short=True, place=EVERYWHERE, arguments={
            "kernel_size": Argument(7, "side of the window", least=1, most=1001, metavar="K"), "heads": Argument(8),
            "zero_padding": Argument(False)}),
        replace(GENET, name="ge", label="GE-theta-plus-ResNet-50", place=_gather_excite("theta_plus", 224)),
        replace(ATAC, label="ATAC-ResNet-50", place=LAST_STAGES)),
    start={"last_gamma": Argument(
        False, "start the last gamma of every bottleneck at 0 (default: the recipe's)", bool)},
    fixed={"stride_first": False})
IMAGENET_V1 = replace(IMAGENET, name="resnet50_v1", fixed={"stride_first": True})

MODELS = {host.model(name): Net(host, part) for host in (CIFAR, IMAGENET, IMAGENET_V1)
          for name, part in host.parts.items()}


def list_models():
    """The names that get_model knows."""
    return sorted(MODELS)


def net_of(name):
    """The Net of a name in upper or lower case. For an unknown name, raises InputError that lists the names."""
    if str(name).lower() not in MODELS:
        raise InputError(f"unknown model {repr(name)[:60]}{nearest(name, MODELS)}; the models are "
                         f"{', '.join(list_models())}")
    return MODELS[str(name).lower()]


def unit_by_name(name):
    """The Part of an activation unit. For an unknown name, raises InputError that lists the names."""
    units = {unit: part for unit, part in CIFAR.parts.items() if part.place is SITES}
    if str(name).lower() not in units:
        raise InputError(f"unknown unit {name!r}{nearest(name, units)}; the units are {', '.join(units)}")
    return units[str(name).lower()]


def complete_arguments(name, arguments):
    """A model's keyword arguments with every default filled in: they describe the net even if a default changes later.

    Raises InputError for an unknown name, and TypeError that lists the arguments for an unknown argument.
    """
    known = net_of(name).arguments(arguments)
    for argument in arguments:
        if argument not in known:
            raise TypeError(f"{name} has no argument {argument!r}{nearest(argument, known)}; it has {', '.join(known)}")
    return {**{argument: declared.default for argument, declared in known.items()}, **arguments}


def image_size(name, arguments):
    """Side of the square images that the net with these keyword arguments takes: 32 for CIFAR, 224 for ImageNet.

    If the net depends on the size, it is the argument input_size. Raises as complete_arguments.
    """
    return complete_arguments(name, arguments).get("input_size", net_of(name).host.image_size)
