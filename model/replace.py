"""Units in place of the ReLUs of any Gluon net, of GluonCV's and Gluon's own zoo too."""
import re

import mxnet as mx
from mxnet.gluon import nn

from support.errors import InputError

from . import activation, refine

OURS = activation.__name__, refine.__name__  # the modules whose blocks keep their ReLUs

def replace_activations(net, unit, where="", image=(3, 224, 224)):
    """Put unit(channels) in place of a net's ReLU blocks, in the net itself. Returns the paths of the new units.

    These ReLUs stay: one that is no block of its own (F.relu, F.Activation in a hybrid_forward), as the ReLUs after the
    additions do in the paper's ImageNet nets; one that follows a dense layer; one within a unit of ours. If the net has
    its weights, the units are initialized on the same devices, as our trainings do it.

    Parameters
    ----------
    net : a HybridBlock that takes images (N, *image).
    unit : a constructor, called with the number of channels: ATAC, or functools.partial(ATAC, reduction=4).
    where : a regular expression that the path of a ReLU must match somewhere, such as r"layer[34].*relu[12]".
    image : shape of one image, by which the channels are found.

    Raises InputError if no ReLU matches, or if one is used at several places of the net.
    """
    shapes = {}
    found = {path: place for path, place in _relus(net) if re.search(where, path)}
    hooks = [block.register_forward_hook(lambda _, inputs, __, path=path: shapes.setdefault(path, []).append(inputs[0]))
             for path, (_, _, block) in found.items()]
    try:
        net(mx.sym.var("data"))
    finally:
        for hook in hooks:
            hook.detach()
    several = [path for path in found if len(shapes.get(path, ())) > 1]
    if several:
        raise InputError(f"the ReLU {several[0]} is used {len(shapes[several[0]])} times in the net; a unit has "
                         "weights for one place: leave it out with where=")
    maps = {}
    for path, (inputs,) in shapes.items():
        _, (shape,), _ = inputs.infer_shape_partial(data=(1, *image))
        if len(shape) == 4:
            maps[path] = shape[1]
    if not maps:
        raise InputError(f"no ReLU of the net matches where={where!r}; its ReLU blocks are "
                         f"{', '.join(path for path, _ in _relus(net)) or 'none'}")
    contexts = _contexts(net)
    for path, channels in maps.items():
        parent, name, _ = found[path]
        with parent.name_scope():
            new = unit(channels)
        if contexts:
            new.initialize(mx.init.MSRAPrelu(), ctx=contexts)
        parent._children[name] = new
        if name in parent.__dict__:  # beside the children a block has its attributes
            parent.__dict__[name] = new
    for block in _blocks(net):
        if hasattr(block, "_clear_cached_op"):
            block._clear_cached_op()
    return list(maps)


def _relus(block, prefix=""):
    """(path, (parent, its name for it, block)) of every ReLU block."""
    for name, child in block._children.items():
        if isinstance(child, nn.Activation) and child._act_type == "relu":
            yield prefix + name, (block, name, child)
        elif type(child).__module__ not in OURS:
            yield from _relus(child, f"{prefix}{name}.")


def _blocks(block):
    yield block
    for child in block._children.values():
        yield from _blocks(child)


def _contexts(net):
    """The devices of a net with weights; none for one without."""
    parameters = list(net.collect_params().values())
    return parameters[0].list_ctx() if parameters and parameters[0]._data is not None else []
