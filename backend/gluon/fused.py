"""The same function of the same parameters, computed by the fused operators of ops/ if they fit."""
import ctypes

import mxnet as mx
import numpy as np
from mxnet import autograd

from model.checked import check
from ops import loader
from support import garbage
from support.errors import InputError
from support.words import counted

from .chain import FrozenTwin, InferenceTwin, TrainingTwin
from .fusable import Unfit
from .inside import WIDEST, layered_units, with_units


def fuse(net, wanted="auto"):
    """Find the fastest way to compute an initialized net on a CPU. Returns (forward, sentence).

    Call forward in place of net. It uses net's own parameters, so train, save and load net as before; it is built from
    the layers that net has now. A CIFARResNetV2 becomes a graph of fused blocks. Any other net keeps its graph, and its
    ATAC, SEActivation, NiN and xUnit units of up to 64 channels, with the BatchNorm before them, become operators. If
    the operators are not built or do not fit, forward is net itself. The sentence says which form it is, and why.

    wanted : "auto", "on" (raises InputError if "auto" would fall back) or "off" (net itself). Raises InputError if
    weights are missing.
    """
    if wanted == "off":
        return net, "plain Gluon operators, as asked"
    try:
        _check(net)
        loader.load()
        loader.require_sums_of_gradients()
        return _fused(net)
    except (Unfit, loader.Unavailable) as reason:
        if wanted == "on":
            raise InputError(f"the fused operators cannot be used: {reason}; leave --fused away") from reason
        return net, f"plain Gluon operators: {reason}"


def weights_missing(net, error):
    """The InputError for a net with missing weights, from MXNet's error."""
    return InputError(f"the weights of {type(net).__name__} are not all there ({str(error).splitlines()[0]}); "
                      "initialize it, run it once and put all of it on the same devices")


def _check(net):
    for parameter in net.collect_params().values():
        try:
            parameter.list_data()
        except RuntimeError as error:
            raise weights_missing(net, error) from error
        if np.dtype(parameter.dtype) != np.float32:
            raise Unfit(f"the fused operators compute in float32, and {parameter.name} is "
                        f"{np.dtype(parameter.dtype).name}")
        if any(context.device_type != "cpu" for context in parameter.list_ctx()):
            raise Unfit("the fused operators are for CPUs")


def _fused(net):
    try:
        return (Fused(net, TrainingTwin(net), InferenceTwin(net), TrainingTwin(net, input_gradient=True)),
                "fused C++ operators for the whole net")
    except Unfit as reason:
        units = layered_units(net)
        if not units:
            raise Unfit(f"{reason}, and no unit of layers with {WIDEST} channels or fewer") from reason
        return (Fused(net, with_units(net, training=True), with_units(net, training=False)),
                f"fused C++ operators for {counted(len(units), 'unit')} ({reason})")


def recorded(x):
    """Whether autograd knows an array: it has a gradient buffer, or was computed while recording."""
    symbol = ctypes.c_void_p()
    if mx.base._LIB.MXAutogradGetSymbol(x.handle, ctypes.byref(symbol)):
        return False
    mx.base._LIB.NNSymbolFree(symbol)
    return True


class Fused:
    """net's forward pass by fused operators: forward(x) for images (N, 3, S, S); InputError for others.

    training, inference : graphs on net's own parameters. differentiable : a graph for training that also computes the
    gradient of the images, which `training` then does not; such graphs move all running statistics in the forward pass,
    as GPUs do (own_statistics). If gradients are recorded in inference mode (record(train_mode=False)), net itself
    computes.
    """

    def __init__(self, net, training, inference, differentiable=None):
        garbage.collect()
        self.net, self.training, self.inference, self.differentiable = net, training, inference, differentiable
        self.own_statistics = differentiable is not None

    def __call__(self, x):
        check(self.net, x)
        if not autograd.is_training():
            return self.net(x) if autograd.is_recording() else self.inference(x)
        # MXNet does not tell external operators to add to a gradient: they would overwrite it.
        added = [parameter.name for parameter in self.net.collect_params().values() if parameter.grad_req == "add"]
        if added:
            raise InputError(f"{added[0]} adds up its gradients (grad_req='add'), which the fused operators cannot do: "
                             "use --fused off")
        return self.differentiable(x) if self.own_statistics and recorded(x) else self.training(x)

    def frozen(self):
        """A graph for inference; later changes of the weights may not reach it."""
        return FrozenTwin(self.net) if self.own_statistics else self.inference

    def hybridize(self, active=True, **settings):
        """Compile the graphs, as HybridBlock.hybridize does."""
        for graph in (self.training, self.inference, self.differentiable):
            if graph is not None:
                graph.hybridize(active, **settings)
