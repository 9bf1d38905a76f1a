"""Nesterov's accelerated gradient over all parameters of a net at once."""
import sys

import mxnet as mx
import numpy as np


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
