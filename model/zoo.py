"""Names to networks, weights to networks, the authors' array names to ours."""
import functools
import inspect
import re
from pathlib import Path
from typing import Callable, NamedTuple

import mxnet as mx
import numpy as np

from support import json_files, params_file
from support.errors import InputError
from support.files import digests, expanded
from support.json_files import FILE_NAME, NOTHING, OBJECT, SHA256, TEXT

from . import activation, refine
from .cifar_resnet import CIFARResNetV2, replace_sites, replace_stages
from .imagenet_resnet import ResNet50, activated_stages, conv3x3, conv_stem
from .self_attention import AugmentedConv, LocalAttention, attention_stem

UNITS = {
    "relu": activation.ReLU, "leakyrelu": activation.LeakyReLU, "prelu": activation.PReLU,
    "elu": activation.ELU, "selu": activation.SELU, "gelu": activation.GELU, "swish": activation.Swish,
    "sine": activation.Sine, "xunit": activation.XUnit, "atac": activation.ATAC,
    "seactivation": activation.SEActivation, "nin": refine.NiN,
}
STEMS = {"attention": attention_stem, "conv": conv_stem}
GATHER_EXCITE = {"theta_minus": refine.GEThetaMinus, "theta": refine.GETheta, "theta_plus": refine.GEThetaPlus}
# The form of a manifest's entry. FILE_NAME: no entry leads out of the manifest's folder.
ENTRY = {"model": TEXT, "arguments": OBJECT, "file": FILE_NAME, "sha256": (NOTHING, SHA256)}
OPTIONAL = {"name": (NOTHING, TEXT), "urls": [TEXT]}
RESTORE = "restore it from the repository"
SHIPPED = Path(__file__).resolve().parent.parent / "params"


def defaults_of(constructor):
    """The keyword arguments of a constructor beside those that the host decides, with their defaults."""
    return {name: parameter.default for name, parameter in inspect.signature(constructor).parameters.items()
            if name not in ("channels", "stride", "size") and parameter.kind is parameter.POSITIONAL_OR_KEYWORD}


def unit_by_name(name):
    """The constructor of an activation unit; InputError listing the names for an unknown one."""
    if str(name).lower() not in UNITS:
        raise InputError(f"unknown unit {name!r}; the units are {', '.join(UNITS)}")
    return UNITS[str(name).lower()]


class Model(NamedTuple):
    """A name's builder, a function of its arguments that returns the unit or module it repeats, its images' side."""

    build: Callable
    module: Callable
    image_size: int = 32


def _activated(unit, blocks=3, classes=10, replaced_sites=None, replace_from=None, act_layers=None, act_order=None,
               replace_act=None, **settings):
    """ResNet-20-v2 with a unit at every site, or at some and `replace_act` at the others."""
    unit = functools.partial(unit, **settings)
    rest = unit_by_name(replace_act or "relu")
    if replaced_sites is not None and act_layers is not None:
        raise InputError("replaced_sites (layer by layer) and act_layers (stage by stage) exclude each other")
    for name, value, needs in (("replace_from", replace_from, replaced_sites), ("act_order", act_order, act_layers)):
        if value is not None and needs is None:
            raise InputError(f"{name} needs {'replaced_sites' if name == 'replace_from' else 'act_layers'}")
    if replaced_sites is not None:
        unit = replace_sites(blocks, unit, replaced_sites, replace_from or "last", rest)
    elif act_layers is not None:
        unit = replace_stages(blocks, unit, act_layers, act_order or "bac", rest)
    elif replace_act is not None:
        raise InputError("replace_act needs replaced_sites or act_layers: without them every site has the unit")
    return CIFARResNetV2(blocks, classes, unit)


def _refined(refinement, blocks=3, classes=10, **settings):
    """ResNet-20-v2 with ReLU everywhere and a module on every residual branch."""
    return CIFARResNetV2(blocks, classes, refinement=functools.partial(refinement, **settings))


def _gather_excite(blocks=3, classes=10, variant="theta", input_size=32, **settings):
    return CIFARResNetV2(blocks, classes, refinement=functools.partial(_gather_excite_variant(variant), **settings),
                         input_size=input_size)


def _gather_excite_variant(variant):
    if variant not in list(GATHER_EXCITE):
        raise InputError(f"unknown gather-excite variant {variant!r}; the variants are {', '.join(GATHER_EXCITE)}")
    return GATHER_EXCITE[variant]


# ResNet-50. stride_first stands in front of what a caller may set: the names say it.

def _resnet50(stride_first, classes=1000, last_gamma=False):
    return ResNet50(classes, stride_first=stride_first, last_gamma=last_gamma)


def _activated_resnet50(unit, stride_first, classes=1000, act_layers=2, last_gamma=False, **settings):
    """ResNet-50 with a unit in place of both inner ReLUs of the bottlenecks of some stages."""
    return ResNet50(classes, activated_stages(functools.partial(unit, **settings), act_layers),
                    stride_first=stride_first, last_gamma=last_gamma)


def _refined_resnet50(refinement, stride_first, classes=1000, last_gamma=False, **settings):
    return ResNet50(classes, refinement=functools.partial(refinement, **settings), stride_first=stride_first,
                    last_gamma=last_gamma)


def _gather_excite_resnet50(stride_first, classes=1000, variant="theta_plus", input_size=224, last_gamma=False,
                            **settings):
    return ResNet50(classes, refinement=functools.partial(_gather_excite_variant(variant), **settings),
                    stride_first=stride_first, last_gamma=last_gamma, input_size=input_size)


def _augmented_resnet50(stride_first, classes=1000, input_size=224, last_gamma=False, **settings):
    """ResNet-50 with attention-augmented convolutions in stages 2 to 4."""
    augmented = functools.partial(AugmentedConv, **settings)
    return ResNet50(classes, spatial=[conv3x3] + [augmented] * 3, stride_first=stride_first, last_gamma=last_gamma,
                    input_size=input_size)


def _attentional_resnet50(stride_first, classes=1000, stem="attention", last_gamma=False, **settings):
    """ResNet-50 with local attention in place of every 3x3."""
    if stem not in list(STEMS):
        raise InputError(f"unknown stem {stem!r}; the stems are {', '.join(STEMS)}")
    return ResNet50(classes, spatial=functools.partial(LocalAttention, **settings), stem=STEMS[stem],
                    stride_first=stride_first, last_gamma=last_gamma)


def _resnet50_models(host, stride_first):
    """The nets of Table IV on one host, by name."""
    def build(builder, *fixed):
        return functools.partial(builder, *fixed, stride_first)

    made = {
        host: Model(build(_resnet50), lambda arguments: activation.ReLU),
        f"atac_{host}": Model(build(_activated_resnet50, activation.ATAC), lambda arguments: activation.ATAC),
        f"se_{host}": Model(build(_refined_resnet50, refine.SE), lambda arguments: refine.SE),
        f"ge_{host}": Model(build(_gather_excite_resnet50),
                            lambda arguments: _gather_excite_variant(arguments["variant"])),
        f"aa_{host}": Model(build(_augmented_resnet50), lambda arguments: AugmentedConv),
        f"fa_{host}": Model(build(_attentional_resnet50), lambda arguments: LocalAttention),
    }
    return {name: model._replace(image_size=224) for name, model in made.items()}


MODELS = {
    **{"resnet20_v2" if name == "relu" else f"{name}_resnet20_v2":
       Model(functools.partial(_activated, unit), lambda arguments, unit=unit: unit) for name, unit in UNITS.items()},
    "localsenet_resnet20_v2": Model(functools.partial(_refined, refine.LocalSE), lambda arguments: refine.LocalSE),
    "senet_resnet20_v2": Model(functools.partial(_refined, refine.SE), lambda arguments: refine.SE),
    "genet_resnet20_v2": Model(_gather_excite, lambda arguments: _gather_excite_variant(arguments["variant"])),
    **_resnet50_models("resnet50_v1b", stride_first=False),
    **_resnet50_models("resnet50_v1", stride_first=True),
}


def list_models():
    """The names that get_model knows."""
    return sorted(MODELS)


def image_size(name, arguments):
    """Side of the square images that the net of these keyword arguments takes: 32 for CIFAR's, 224 for ImageNet's.

    Where the net depends on it, its argument input_size says it. Raises as complete_arguments.
    """
    return complete_arguments(name, arguments).get("input_size", MODELS[str(name).lower()].image_size)


def complete_arguments(name, arguments):
    """A model's keyword arguments with every default filled in: what the net is, whatever the defaults become.

    Raises InputError for an unknown name, TypeError, naming the arguments there are, for one that the net does not
    have.
    """
    if str(name).lower() not in MODELS:
        raise InputError(f"unknown model {repr(name)[:60]}; the models are {', '.join(list_models())}")
    model = MODELS[str(name).lower()]
    host = defaults_of(model.build)
    known = {**host, **defaults_of(model.module({**host, **arguments}))}
    for argument in arguments:
        if argument not in known:
            raise TypeError(f"{name} has no argument {argument!r}; it has {', '.join(known)}")
    return {**known, **arguments}


def get_model(name, pretrained=False, classes=None, ctx=mx.cpu(), root=SHIPPED, **kwargs):
    """Build a network by name.

    Parameters
    ----------
    name : one of `list_models()`, upper or lower case.
    pretrained : load the weights that root/manifest.json lists for this very net, or the name of those to load where
        it lists several; False leaves it uninitialized.
    classes : length of the logits; None for 10 (ResNet-20-v2) or 1000 (ResNet-50).
    ctx : device or devices of the pretrained weights.
    root : folder of manifest.json and the weights; the repository's params/ by default.
    kwargs : for ResNet-20-v2 blocks (default 3) and the settings of the unit: reduction and inner_relu (atac,
        seactivation; nin, localsenet, senet and genet have reduction), alpha (leakyrelu, elu), beta (swish),
        kernel_size (xunit), layers (nin), variant and input_size (genet). The units also take replaced_sites with
        replace_from ('last' or 'first'), or act_layers (0 to 4) with act_order ('bac' or 'pre'), for partial
        replacement, and replace_act, the unit of the other sites ('relu').
        For ResNet-50 (v1b: stride on the 3x3; v1: on the first 1x1) last_gamma, which starts every block as the
        identity, and: act_layers, the number of stages from the last (default 2, the released net's) or a list of
        stages, reduction and inner_relu (atac); reduction (se); variant (default 'theta_plus'), reduction and
        input_size (ge); input_size and the settings of AugmentedConv (aa); stem ('attention' or 'conv') and the
        settings of LocalAttention (fa).

    Raises InputError (a ValueError) for an unknown name, listing those there are, and for a value that is not
    allowed; TypeError for an argument that the net does not have.
    """
    arguments = complete_arguments(name, kwargs if classes is None else {"classes": classes, **kwargs})
    net = MODELS[str(name).lower()].build(**arguments)
    if pretrained:
        file = _pretrained_file(expanded(root or SHIPPED), str(name).lower(), arguments,
                                pretrained if isinstance(pretrained, str) else None)
        load_params(net, file, ctx)
    return net


def pretrained_entry(name, root=SHIPPED):
    """What root/manifest.json says of the weights called name, as a dict. Raises InputError."""
    manifest = Path(root) / "manifest.json"
    entries = {each["name"]: each for each in read_manifest(manifest) if each.get("name")}
    if name not in entries:
        raise InputError(f"no pretrained weights called {name!r}; {manifest} has: {', '.join(entries) or 'none'}")
    return entries[name]


def pretrained_file(name, root=SHIPPED):
    """Path of the weights that root/manifest.json calls name, their checksum compared. Raises InputError."""
    return _verified(Path(root) / "manifest.json", pretrained_entry(name, root))


def _pretrained_file(root, name, arguments, wanted):
    """The same for the net of complete arguments; wanted names one of several entries that fit it, or is None."""
    manifest = root / "manifest.json"
    entries = read_manifest(manifest)
    try:
        fitting = [each for each in entries if each["model"] == name
                   and _structure(complete_arguments(name, each["arguments"])) == _structure(arguments)]
    except TypeError as error:
        raise InputError(f"{manifest} cannot be used: {error}; {RESTORE}") from error
    names = [each.get("name") for each in fitting]
    if wanted is None and len(fitting) > 1:
        raise InputError(f"several weights fit {name} with {arguments}: pretrained= takes one of "
                         f"{', '.join(filter(None, names))}")
    if not fitting or wanted not in (None, *names):
        called = "" if wanted is None else f" called {wanted!r}"
        offered = "; ".join(f"{each['model']} {each['arguments']}" for each in entries) or "none"
        raise InputError(f"no pretrained weights{called} for {name} with {arguments}; {manifest} has: {offered}")
    return _verified(manifest, fitting[0 if wanted is None else names.index(wanted)])


def _structure(arguments):
    """Complete arguments without last_gamma, which says how a net starts and not what it is."""
    return {name: value for name, value in arguments.items() if name != "last_gamma"}


def read_manifest(manifest):
    """The entries of a manifest of weights. InputError unless each has the form of one; name and urls may be absent."""
    entries = json_files.read(manifest, {"models": [ENTRY]}, RESTORE)["models"]
    for place, entry in enumerate(entries):
        wrong = json_files.problem({"name": None, "urls": [], **entry}, OPTIONAL, f"models[{place}]")
        if wrong:
            raise InputError(f"{manifest} cannot be used: {wrong}; {RESTORE}")
    return entries


def intact(path, entry):
    """Whether a file is the one of a manifest's entry: by its sha256 or, where nobody has published that, by git's name
    of its content (git_blob)."""
    name = "sha256" if entry["sha256"] else "git_blob"
    return digests(path, [name])[name] == entry.get(name)


def _verified(manifest, entry):
    """Path of an entry's file in its manifest's folder, its checksum compared."""
    path = manifest.parent / entry["file"]
    if not path.is_file() or not intact(path, entry):
        fetchable = entry.get("urls") and entry.get("name")
        fetched = f"fetch it with scripts/download_params.sh {entry['name']}" if fetchable else "restore it"
        raise InputError(f"{path} is missing or is not the file that {manifest} describes; {fetched}")
    return path


# The authors' attribute names and ours (specification of the released files: docs/FIDELITY.md).
# Scalar activations without parameters leave no trace in a file, so a ReLU net has the same names in both.
_FROM_AUTHORS = (
    (re.compile(r"\.(?:msAA|relu)([12])\.module\."), r".act\1.gate."),  # CIFAR: msAA, ImageNet: relu
    (re.compile(r"\.msAA([12])\.alpha$"), r".act\1.alpha"),
    (re.compile(r"^features\.6\.module\."), "features.6.gate."),
)
_TO_AUTHORS = (
    (re.compile(r"^(features\..*)\.act([12])\.gate\."), r"\1.msAA\2.module."),
    (re.compile(r"^(layer\d\..*)\.act([12])\.gate\."), r"\1.relu\2.module."),
    (re.compile(r"\.act([12])\.alpha$"), r".msAA\1.alpha"),
    (re.compile(r"^features\.6\.gate\."), "features.6.module."),
)


def _renamed(name, rules):
    for pattern, replacement in rules:
        name = pattern.sub(replacement, name)
    return name


def from_authors(name):
    """Our name of an array in a file that the authors' code wrote; our own names come back unchanged."""
    return _renamed(name, _FROM_AUTHORS)


def to_authors(name):
    """The name that the authors' code gives to one of our arrays."""
    return _renamed(name, _TO_AUTHORS)


def load_params(net, path, ctx=mx.cpu()):
    """Load a parameter file of ours or of the authors' code into net, recognised by the names in it.

    Everything is checked before anything changes: a file that does not fit leaves net as it was. Numbers are cast to
    the net's type (the released ImageNet file is float16). Afterwards the parameters lie on ctx, a device or a list.
    Returns net. Raises InputError when the file is damaged or holds another net, naming the first differences.
    """
    arrays, _ = params_file.read(path)
    ctx = [ctx] if isinstance(ctx, mx.Context) else list(ctx)
    renamed = {from_authors(name): value for name, value in arrays.items()}
    if len(renamed) < len(arrays):
        raise InputError(f"{path} has arrays under our names and under the authors' at once; use a file of one kind")
    if any(name.startswith(("arg:", "aux:")) for name in renamed):
        raise InputError(f"{path} was written by export(); write it with net.save_parameters()")
    set_params(net, renamed, path, ctx)
    return net


def set_params(net, arrays, source, ctx):
    """Set all parameters of net from a dict of structural name to numpy array, or none: InputError names why."""
    parameters = net._collect_params_with_prefix()
    problems = []
    missing = sorted(set(parameters) - set(arrays))
    extra = sorted(set(arrays) - set(parameters))
    if missing:
        problems.append(f"it lacks {len(missing)} arrays ({', '.join(missing[:2])}{', ...' * (len(missing) > 2)})")
    if extra:
        problems.append(f"it has {len(extra)} that the net does not ({', '.join(map(_shown, extra[:2]))}"
                        f"{', ...' * (len(extra) > 2)})")
    wrong = [name for name in parameters if name in arrays and parameters[name].shape != arrays[name].shape]
    if wrong:
        problems.append(f"{len(wrong)} differ in shape ({wrong[0]} is {arrays[wrong[0]].shape} in the file and "
                        f"{parameters[wrong[0]].shape} in the net)")
    if problems:
        raise InputError(f"{source} does not fit this net: {'; '.join(problems)}{_description(arrays)}")
    for name, parameter in parameters.items():
        if arrays[name].dtype.kind != "f":
            raise InputError(f"{source} holds {arrays[name].dtype} numbers in {name}, not weights; use another file")
        with np.errstate(over="ignore"):
            numbers = arrays[name].astype(parameter.dtype)
        params_file.check_numbers(source, name, numbers)
    for name, parameter in parameters.items():
        if parameter._data is None:
            parameter.initialize(mx.init.Zero(), ctx)  # overwritten below; draws no random numbers
        elif parameter.list_ctx() != ctx:
            parameter.reset_ctx(ctx)
        parameter.set_data(mx.nd.array(arrays[name], dtype=parameter.dtype))


def _shown(name):
    """An array's name in a file, which may be of any length and hold anything, for a sentence."""
    return name if len(name) <= 60 and name.isprintable() else f"{ascii(name)[:60]}..."


def _description(arrays):
    """What the arrays of one of our nets say of it, as a clause for an error message; empty for other nets."""
    if {"conv3.weight", "fc.bias"} <= {name[len("layer1.0."):] if name.startswith("layer1.0.") else name
                                       for name in arrays}:
        stages = [str(stage) for stage in range(1, 5) if f"layer{stage}.0.act1.gate.0.weight" in arrays]
        units = f"ATAC in act_layers=[{', '.join(stages)}]" if stages else "no ATAC"
        return f"; the file looks like a ResNet-50, classes={arrays['fc.bias'].shape[0]}, {units}"
    blocks = {int(match.group(1)) for match in (re.match(r"features\.2\.(\d+)\.", name) for name in arrays) if match}
    if not blocks or "output.bias" not in arrays:
        return ""
    gates = [int(match.group(1)) for match in
             (re.match(r"features\.6\.gate\.(\d+)\.weight", name) for name in arrays) if match]
    head = "a unit without arrays"
    if gates:
        weight = arrays[f"features.6.gate.{min(gates)}.weight"]
        head = {0: "ATAC", 1: "SEActivation"}.get(min(gates), "a gated unit")
        head += f" with r={weight.shape[1] // max(weight.shape[0], 1)}" if weight.ndim == 4 else ""
    return f"; the file looks like blocks={max(blocks) + 1}, classes={arrays['output.bias'].shape[0]}, head {head}"
