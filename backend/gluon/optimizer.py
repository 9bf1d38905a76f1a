"""Nesterov's accelerated gradient over all parameters of a net at once, and the trainer that applies it."""
import sys

import mxnet as mx
import numpy as np

from .distributed import Team


class NAG(mx.optimizer.NAG):
    """mx.optimizer.NAG to the bit, in one call if `update_all` is given (the rule: docs/FIDELITY.md, 4.5).

    update_all(weights, grads, momenta, lr, momentum, wds, rescale_grad) changes weights and momenta in place as
    `nag_mom_update` does; all are lists of float32 arrays on one CPU, with one decay in wds for each. Without it, on
    GPUs, and without momentum, MXNet's operators update the parameters one by one.
    """

    def __init__(self, update_all=None, **kwargs):
        super().__init__(**kwargs)
        self.update_all = update_all
        self.aggregate_num = sys.maxsize  # the Trainer's updater then passes all arrays of one type at once

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
    """The gluon.Trainer with NAG over all parameters of net.

    kvstore : device, local or nccl; it adds the gradients of several devices. team : a distributed.Team, which adds
    them also over its workers. update_all : an operator that updates everything at once (NAG).
    dtype : 'float16' casts net (except its BatchNorms, which stay float32) and keeps float32 master weights in the
    optimizer's state. The gradients are summed over the batch and divided in float32, so that small ones do not vanish
    in float16.
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
    # The first step would do this while running statistics change, and copy device 0's to all devices.
    trainer._init_kvstore()
    trainer._init_params()
    for name, master in masters.items():
        if np.dtype(parameters[name].dtype) != np.float32:
            for device in range(len(parameters[name].list_ctx())):
                # The optimizer would copy the rounded weight.
                optimizer_state(trainer, parameters[name], device)[1][:] = master
    return trainer


def optimizer_state(trainer, parameter, device=0):
    """(momentum, float32 master weight) of a parameter on one device; momentum is zeros before the first step.

    The momentum is None if there is none, the master weight None for a float32 parameter. Trainer offers its states
    only as a pickle, and reading a crafted pickle runs code.
    """
    updater, index = trainer._updaters[device], trainer._param2idx[parameter.name]
    if index not in updater.states:
        updater.states[index] = trainer._optimizer.create_state_multi_precision(index, parameter.list_data()[device])
        updater.states_synced[index] = True
    state = updater.states[index]
    return state if np.dtype(parameter.dtype) == np.float16 else (state, None)
