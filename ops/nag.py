"""The update of all parameters in one call: update_all of backend.gluon.optimizer.NAG."""
import ctypes

import mxnet as mx

from . import loader


def update_all(weights, grads, momenta, lr, momentum, wds, rescale_grad):
    """nag_mom_update of every weight and momentum, in place: lists of float32 arrays on one CPU, a decay for each."""
    loader.load()
    for weight in weights:
        _restore_layout(weight)
    arrays = [array for trio in zip(weights, grads, momenta) for array in trio]
    mx.nd.atac_nag(*arrays, out=[array for pair in zip(weights, momenta) for array in pair], count=str(len(weights)),
                   lr=repr(lr), momentum=repr(momentum), rescale=repr(rescale_grad), decays=" ".join(map(repr, wds)))


def _restore_layout(weight):
    """Bring a weight from oneDNN's layout, in which inference leaves it, back to MXNet's; the operator needs that."""
    weight.wait_to_read()  # waits for the writes of the step before, not for this step's reads
    mx.base.check_call(mx.base._LIB.MXNDArrayGetData(weight.handle, ctypes.byref(ctypes.c_void_p())))


def update_operator(wanted):
    """update_all if the operators can be used, else None; wanted : the value of --fused: auto, on or off."""
    return update_all if wanted != "off" and loader.available()[0] else None
