"""Nesterov's accelerated gradient over all parameters of a net at once, and the trainer that applies it."""
import sys

import mxnet as mx
import numpy as np

from .distributed import Team
from .state import optimizer_state


class NAG(mx.optimizer.NAG):
    """mx.optimizer.NAG to the bit, in one call where an operator for it is handed in (the rule: docs/FIDELITY.md, 4.5).

    update_all(weights, grads, momenta, lr, momentum, wds, rescale_grad) changes lists of float32 arrays on one CPU in
    place: weights and momenta as `nag_mom_update` does it, with one decay of wds for each. Without it, on GPUs and
    without momentum, MXNet's operators take the parameters one by one, bundled for its engine.
    """

    def __init__(self, update_all=None, **kwargs):
        super().__init__(**kwargs)
        self.update_all = update_all
        self.aggregate_num = sys.maxsize  # so that the Trainer's updater hands over everything of one type

    def update_multi_precision(self, index, weight, grad, state):
        """Update the arrays of one type on one device; the four arguments are of equal length."""
        rates = set(self._get_lrs(index))
        if (self.update_all is None or self.momentum <= 0 or self.clip_gradient or len(rates) > 1
                or weight[0].dtype != np.float32 or weight[0].context.device_type != "cpu"):
            with mx.engine.bulk(len(index)):
                for arguments in zip(index, weight, grad, state):
                    super().update_multi_precision(*arguments)
            return
        self._update_count(index)
        self.update_all(list(weight), list(grad), list(state), lr=rates.pop(), momentum=self.momentum,
                        wds=self._get_wds(index), rescale_grad=self.rescale_grad)


def make_trainer(net, recipe, kvstore="device", dtype="float32", update_all=None, team=None):
    """NAG over all parameters of net; several devices add their gradients through kvstore: device, local or nccl.

    A team (distributed.Team) adds them over its workers too, in its own way.

    dtype 'float16' casts net (but for its BatchNorms, which stay float32) and keeps float32 master weights in the
    optimizer's state. The gradient of a step is that of the loss summed over the batch and is divided in float32, so
    that small gradients do not vanish in float16. update_all: an operator that updates everything at once (NAG).
    """
    parameters = net.collect_params()
    if recipe.no_wd:
        for name, parameter in parameters.items():
            if name.endswith(("_gamma", "_beta", "_bias")):
                parameter.wd_mult = 0.0
    if recipe.accumulate > 1:
        for parameter in parameters.values():
            if parameter.grad_req != "null":
                parameter.grad_req = "add"
    masters = {}
    if dtype != "float32":
        masters = {name: parameter.data(parameter.list_ctx()[0]).astype("float32")
                   for name, parameter in parameters.items() if parameter.grad_req != "null"}
        net.cast(dtype)
    optimizer = NAG(update_all, learning_rate=recipe.lr, momentum=recipe.momentum, wd=recipe.wd,
                    multi_precision=dtype != "float32")
    trainer = (team or Team(kvstore)).trainer(parameters, optimizer)
    # Left to the first step, this would copy device 0's running statistics over those of all while they change.
    trainer._init_kvstore()
    trainer._init_params()
    for name, master in masters.items():
        if np.dtype(parameters[name].dtype) != np.float32:
            for device in range(len(parameters[name].list_ctx())):
                # Left to the optimizer, it would be made of the rounded weight.
                optimizer_state(trainer, parameters[name], device)[1][:] = master
    return trainer
