"""The same function of the same parameters, computed by the fused operators of ops/ if they fit."""
import ctypes

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import Block

from model.checked import check
from ops import loader
from support import garbage
from support.errors import InputError
from support.words import counted

from .chain import FrozenTwin, TrainingTwin, twin
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
        return Fused(net, twin, own_statistics=True), "fused C++ operators for the whole net"
    except Unfit as reason:
        units = layered_units(net)
        if not units:
            raise Unfit(f"{reason}, and no unit of layers with {WIDEST} channels or fewer") from reason
        return (Fused(net, with_units, own_statistics=False),
                f"fused C++ operators for {counted(len(units), 'unit')} ({reason})")


def recorded(x):
    """Whether autograd knows an array: it has a gradient buffer, or was computed while recording."""
    symbol = ctypes.c_void_p()
    if mx.base._LIB.MXAutogradGetSymbol(x.handle, ctypes.byref(symbol)):
        return False
    mx.base._LIB.NNSymbolFree(symbol)
    return True


class Fused(Block):
    """net's forward pass by fused operators: one graph for training, one for inference, made by build(net, training).

    Takes images (N, 3, S, S); raises InputError for others. If gradients are recorded in inference mode
    (record(train_mode=False)), net itself computes. Parameters, their names and files are net's, and so is every
    attribute that this class lacks. own_statistics: the graph moves all running statistics in the forward pass, as GPUs
    do, and computes the gradient of the images only if autograd may ask for it.
    """

    def __init__(self, net, build, own_statistics):
        super().__init__(prefix="fused_")
        garbage.collect()
        self._net = [net]  # in a list, so that Gluon does not register it as a child
        self.own_statistics = own_statistics
        self.training, self.inference = build(net, True), build(net, False)
        self.differentiable = None  # the training graph with a gradient of the images
        self._settings = None

    def forward(self, x):
        net, = self._net
        check(net, x)
        if not autograd.is_training():
            return net(x) if autograd.is_recording() else self.inference(x)
        # MXNet does not tell external operators to add to a gradient: they would overwrite it.
        added = [parameter.name for parameter in net.collect_params().values() if parameter.grad_req == "add"]
        if added:
            raise InputError(f"{added[0]} adds up its gradients (grad_req='add'), which the fused operators cannot do: "
                             "use --fused off")
        if not self.own_statistics or not recorded(x):
            return self.training(x)
        if self.differentiable is None:
            self.differentiable = TrainingTwin(net, input_gradient=True)
            if self._settings is not None:
                self.differentiable.hybridize(**self._settings)
        return self.differentiable(x)

    def frozen(self):
        """A graph for inference; later changes of the weights may not reach it."""
        return FrozenTwin(self._net[0]) if self.own_statistics else self.inference

    def hybridize(self, active=True, **settings):
        """Compile the graphs, as HybridBlock.hybridize does."""
        self._settings = {"active": active, **settings}
        super().hybridize(**self._settings)

    # The interface of Block, passed on to net.

    def __getattr__(self, name):
        if name == "_net":  # not set yet
            raise AttributeError(name)
        return getattr(self._net[0], name)

    @property
    def params(self):
        return self._net[0].params

    def collect_params(self, select=None):
        return self._net[0].collect_params(select)

    def _collect_params_with_prefix(self, prefix=""):
        return self._net[0]._collect_params_with_prefix(prefix)

    def save_parameters(self, *args, **kwargs):
        self._net[0].save_parameters(*args, **kwargs)

    def load_parameters(self, *args, **kwargs):
        self._net[0].load_parameters(*args, **kwargs)

    def initialize(self, *args, **kwargs):
        self._net[0].initialize(*args, **kwargs)

    def apply(self, fn):
        self._net[0].apply(fn)
        return self

    def summary(self, *inputs):
        self._net[0].summary(*inputs)

    def export(self, path, *args, **kwargs):
        """Write net's parameters and its graph in MXNet's own operators, which every MXNet reads."""
        net, = self._net
        if not net._cached_graph:
            net._build_cache(mx.sym.var("data"))  # HybridBlock does this only in the first call after hybridize
        return net.export(path, *args, **kwargs)

    def cast(self, dtype):
        if np.dtype(dtype) != np.float32:
            raise InputError(f"the fused operators compute in float32, not {np.dtype(dtype).name}: cast the net itself "
                             "and call fuse again")

    def optimize_for(self, *args, **kwargs):
        raise InputError("a fused net has no graph for another backend: optimize_for is for the net itself, "
                         "backend.gluon.inference.optimize finds the fastest form for inference")
