"""Names of the arrays in parameter files: ours, the authors', and Gluon's own with any prefix."""
import re

from . import _MODULES

HEADS = ("output", "fc")  # the last layer of the CIFAR nets and of ResNet-50

# The authors' attribute names and ours (specification of the released files: docs/FIDELITY.md).
# A ReLU net has the same names in both: scalar activations without parameters have no arrays.
_FROM_AUTHORS = (
    (re.compile(r"\.(?:msAA|relu)([12])\.module\."), r".act\1.gate."),  # CIFAR: msAA, ImageNet: relu
    (re.compile(r"\.msAA([12])\.alpha$"), r".act\1.alpha"),
    (re.compile(r"^features\.6\.module\."), "features.6.gate."),
)
# Our units' names; Gluon writes them into the names of the arrays.
UNITS = {name.lower() for module in ("activation", "refine", "self_attention") for name in _MODULES[f"model.{module}"]}


class Unfit(Exception):
    """A file's arrays cannot be recognised as a net's; the message is a clause that says why."""


def from_authors(name):
    """Our name of an array in a file of the authors' code; our own names come back unchanged."""
    for pattern, replacement in _FROM_AUTHORS:
        name = pattern.sub(replacement, name)
    return name


def head_of(names):
    """Those of a net's structural names that are in its last layer, which has a row for each class."""
    return [name for name in names if name.split(".")[0] in HEADS]


def classes_of(arrays):
    """Length of the logits of the net with these arrays, {name: array}; None if no name tells it."""
    names = [f"{head}.bias" for head in HEADS if f"{head}.bias" in arrays] \
        or [name for name in arrays if re.search(r"(^|[:_])dense\d+_bias$", name)]
    return len(arrays[names[-1]]) if names and arrays[names[-1]].ndim == 1 else None


def recognise(own, arrays):
    """Find out which names a file's arrays have: ours, the authors' or Gluon's.

    own : {structural name: Parameter} of the net. arrays : {name: array}, in the file's order.
    Returns ({name in the file: structural name in net}, words for a sentence about the names). A file of
    save_parameters, ours or the authors', that holds another net comes back as it is, with names that net does not
    have. Raises Unfit for Gluon's prefixed names (export, collect_params().save()) of another net.
    """
    exported = bool(arrays) and all(name.startswith(("arg:", "aux:")) for name in arrays)
    bare = {name: name[len("arg:"):] if exported else name for name in arrays}
    if len(set(bare.values())) < len(bare):
        raise Unfit("it has the same name as arg: and as aux:")
    ours = {name: from_authors(name) for name in arrays}
    if len(set(ours.values())) < len(ours):
        raise Unfit("it has arrays under our names and under the authors' at once; use a file of one kind")
    if any(name in own for name in ours.values()):
        return ours, ("the names of save_parameters" if list(ours) == list(ours.values()) else "the authors' names")
    if any(f"features.{name}" in own for name in arrays):
        return {name: f"features.{name}" for name in arrays}, "the names of features.save_parameters"
    if any("." in name for name in bare.values()):
        return ours, "unknown names"

    writer = "the names of export" if exported else "the names of collect_params().save()"
    gluons = {parameter.name: name for name, parameter in own.items()}
    prefix = _prefix(list(bare.values()), gluons)
    if prefix is not None:
        return {name: gluons[bare[name][len(prefix):]] for name in arrays}, writer
    found = _in_order({bare[name]: array.shape for name, array in arrays.items()}, own)
    return {name: found[bare[name]] for name in arrays}, f"{writer} in another code, matched by order, kind and shape"


def _prefix(names, known):
    """The prefix p if every one of these names is p + a known name, else None."""
    for end in known if names else ():
        prefix = names[0][:-len(end)]
        if names[0] == prefix + end and all(name.startswith(prefix) and name[len(prefix):] in known for name in names):
            return prefix
    return None


def _in_order(shapes, own):
    """{name: structural name} for another code's {name: shape}, in the order of own, the net's parameters.

    Kinds (weight, gamma, ...) and shapes must match the net's one by one; only the head may have another length. Arrays
    of equal shapes could still be swapped. So each name, without its numbers, must always stand for the same name of
    the net, its numbers must rise, and it must name the same units of ours. Raises Unfit otherwise.
    """
    head, expected = head_of(own), list(own.items())
    if len(shapes) == len(expected) - len(head):
        expected = [(name, parameter) for name, parameter in expected if name not in head]
    if len(shapes) != len(expected):
        raise Unfit(f"it holds {len(shapes)} arrays and the net has {len(expected)}")
    partners, numbers = {}, {}
    for (name, shape), (target, parameter) in zip(shapes.items(), expected):
        kind = target.rpartition(".")[2]
        if not re.search(f"(^|_){kind}$", name) or shape != parameter.shape and target not in head:
            raise Unfit(f"its {shown(name)} {shape} stands where the net has {target} {parameter.shape}")
        layer, counted = re.sub(r"\d+", "", name), [int(number) for number in re.findall(r"\d{1,9}", name)]
        own_layer = re.sub(r"\d+", "", parameter.name)
        if partners.setdefault(("file", layer), own_layer) != own_layer or numbers.get(layer, [-1]) >= counted \
                or partners.setdefault(("net", own_layer), layer) != layer or _units(name) != _units(parameter.name):
            raise Unfit(f"its {shown(name)} may be {target} or another array of the net; write the file with "
                        "net.save_parameters()")
        numbers[layer] = counted
    return {name: target for name, (target, _) in zip(shapes, expected)}


def _units(name):
    """The names of our units in a name of Gluon's."""
    return [word for word in (part.rstrip("0123456789") for part in name.split("_")) if word in UNITS]


def shown(name):
    """An array's name for a sentence; in a file it may be of any length and hold anything."""
    return name if len(name) <= 60 and name.isprintable() else f"{ascii(name)[:60]}..."
