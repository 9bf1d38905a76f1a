"""The update of all parameters in one call (backend.gluon.optimizer.NAG takes it as update_all)."""
import ctypes

import mxnet as mx

from . import loader


def update_all(weights, grads, momenta, lr, momentum, wds, rescale_grad):
    """nag_mom_update of every weight and momentum, in place; lists of float32 arrays of one CPU, one decay for each."""
    loader.load()
    for weight in weights:
        _restore_layout(weight)
    arrays = [array for trio in zip(weights, grads, momenta) for array in trio]
    mx.nd.atac_nag(*arrays, out=[array for pair in zip(weights, momenta) for array in pair], count=str(len(weights)),
                   lr=repr(lr), momentum=repr(momentum), rescale=repr(rescale_grad), decays=" ".join(map(repr, wds)))


def _restore_layout(weight):
    """Bring a weight that inference has left in oneDNN's layout back to MXNet's own; the operator refuses others.

    Inference rearranges a weight behind its own back, as a write of its own: only what is written is known.
    """
    weight.wait_to_read()  # for the step before, no more: this step's passes are reading it
    mx.base.check_call(mx.base._LIB.MXNDArrayGetData(weight.handle, ctypes.byref(ctypes.c_void_p())))


def update_operator(wanted):
    """update_all if the operators can be used, else None; wanted is what --fused says: auto, on or off."""
    return update_all if wanted != "off" and loader.available()[0] else None
