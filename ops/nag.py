"""The update of all parameters in one call (engine.nag.NAG takes it as update_all)."""
import mxnet as mx

from . import loader


def update_all(weights, grads, momenta, lr, momentum, wds, rescale_grad):
    """nag_mom_update of every weight and momentum, in place; lists of float32 arrays of one CPU, one decay for each."""
    loader.load()
    arrays = [array for trio in zip(weights, grads, momenta) for array in trio]
    mx.nd.atac_nag(*arrays, count=str(len(weights)), lr=repr(lr), momentum=repr(momentum), rescale=repr(rescale_grad),
                   decays=" ".join(map(repr, wds)))


def update_operator(wanted):
    """update_all where the operators can be used, else None; wanted is what --fused says: auto, on or off."""
    return update_all if wanted != "off" and loader.available()[0] else None
