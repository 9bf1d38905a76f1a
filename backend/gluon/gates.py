"""The gates that a Gluon net computes, caught by hooks on its gated units (model.activation.Gated)."""
import mxnet as mx
import numpy as np
from mxnet import autograd

from model.activation import Gated

from .placement import input_type


def captured(net, contexts, images):
    """The gates of a net with weights, as backend.base.Scorer.gates gives them.

    Afterwards the net runs operator by operator (hooks see nothing in a compiled net).
    """
    found, hooks, units = {}, [], list(_units(net))
    if not units:
        return found
    net.hybridize(False)
    for name, unit in units:
        def keep(block, inputs, output, name=name):
            found[name] = output.asnumpy().astype(np.float32)
        hooks.append(unit.gate.register_forward_hook(keep))
    try:
        with autograd.pause(train_mode=False):
            net(mx.nd.array(images, contexts[0], input_type(net))).wait_to_read()
    finally:
        for hook in hooks:
            hook.detach()
    return found


def _units(block, path=()):
    """(structural name, unit) of every gated unit."""
    for name, child in block._children.items():
        if isinstance(child, Gated):
            yield ".".join((*path, name)), child
        else:
            yield from _units(child, (*path, name))
