"""The same function of the same parameters, computed by the fused operators of ops/ if they fit."""
import contextlib
import ctypes

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import Block, HybridBlock, SymbolBlock, nn

from model import activation, registry
from model.checked import check
from model.cifar_resnet import BasicBlockV2, CIFARResNetV2
from ops import loader
from support import garbage
from support.errors import InputError
from support.words import counted

# Most channels of a unit that is faster as an operator of its own: CIFAR's units are (docs/PERFORMANCE.md). ResNet-50's
# units (256 and 512 channels) were slower in training, which needs the covariance of every pair of channels.
WIDEST = 64
NORM = ("gamma", "beta", "running_mean", "running_var")  # the order in which the operators take them


class Unfit(Exception):
    """The fused operators cannot compute this net or a part of it; the message is a clause that says which."""


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
        return (Fused(net, traced, own_statistics=False),
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


# ---- A CIFAR net as a chain of operators


def norm_settings(block, scaled=True):
    """A BatchNorm's (eps, momentum); raises Unfit if the operators cannot compute it.

    scaled: whether the operators multiply by its gamma; MXNet takes gamma as 1 in a BatchNorm(scale=False), whatever it
    holds. Beta is always added; center=False only means that it is not learned.
    """
    settings = block._kwargs if type(block) is nn.BatchNorm else {}
    if settings.get("axis") != 1 or settings["use_global_stats"] or settings["fix_gamma"] == scaled:
        raise Unfit(f"{block.name} is not a plain BatchNorm")
    return settings["eps"], settings["momentum"]


def plain_norm(block):
    """Whether a block is a BatchNorm that the operators can compute."""
    with contextlib.suppress(Unfit):
        return bool(norm_settings(block))
    return False


def _operators(parts):
    return {part.constructor: part.operator for part in parts if part.operator}


# What the operators know, by exact class: a subclass may compute something else.
UNITS = _operators(part for part in registry.CIFAR.parts.values() if part.place is registry.SITES)
REFINEMENTS = _operators(module for part in registry.CIFAR.parts.values() if part.place is not registry.SITES
                         for module in (part.variants or {None: part}).values())


def kind_of(unit, kinds=UNITS):
    """A unit, or a refinement of REFINEMENTS, as the attribute of an operator; raises Unfit if there is none for it."""
    if type(unit) not in kinds:
        raise Unfit(f"there is no fused {type(unit).__name__}")
    if type(unit) is activation.NiN and len(unit) != 7:  # 7: ReLU, then twice convolution, BatchNorm, ReLU
        raise Unfit("there is no fused NiN of one layer")
    return kinds[type(unit)].format(unit=unit)


def blocks_in(block):
    """A block and all blocks inside it."""
    yield block
    for child in block._children.values():
        yield from blocks_in(child)


def common_norm(block, unscaled=None):
    """The operators' attributes epsilon and momentum of all BatchNorms in a block; raises Unfit if they differ.

    unscaled: the BatchNorm without gamma.
    """
    settings = {norm_settings(part, scaled=part is not unscaled)
                for part in blocks_in(block) if isinstance(part, nn.BatchNorm)}
    if len(settings) > 1:
        raise Unfit("its BatchNorms differ in epsilon or momentum")
    return {name: repr(value) for name, value in zip(("epsilon", "momentum"), *settings)}


def layers_of(unit):
    """The layers inside a unit in the order of the data flow; a scalar unit has none."""
    return getattr(unit, "gate", unit if isinstance(unit, nn.HybridSequential) else ())


def unit_parameters(unit):
    """A unit's parameters in the order of the operators' arrays."""
    if isinstance(unit, activation.PReLU):
        return [unit.alpha]
    found = []
    for layer in layers_of(unit):
        if isinstance(layer, nn.Conv2D):
            found += [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        elif isinstance(layer, nn.BatchNorm):
            found += norm_parameters(layer)
    return found


def norm_parameters(block):
    return [getattr(block, array) for array in NORM]


def steps_of(net):
    """(operator, its parameters, its attributes) along the net; raises Unfit if an operator is missing."""
    if type(net) is not CIFARResNetV2:
        raise Unfit(f"{type(net).__name__} as a whole has none")
    first, stem, *stages = list(net.features)[:5]
    norm = common_norm(net, unscaled=first)
    if type(net.output) is not nn.Dense or net.output.act is not None or net.output.bias is None:
        raise Unfit("its output is not a dense layer with bias")
    yield "stem", norm_parameters(first)[1:] + [stem.weight], norm
    for stage in stages:
        for block in stage:
            if type(block) is not BasicBlockV2:
                raise Unfit(f"there is no fused {type(block).__name__}")
            parameters = (norm_parameters(block.bn1) + unit_parameters(block.act1) + [block.conv1.weight]
                          + norm_parameters(block.bn2) + unit_parameters(block.act2) + [block.conv2.weight]
                          + unit_parameters(block.refine))
            if block.downsample is not None:
                parameters.append(block.downsample.weight)
            refine = "none" if block.refine is None else kind_of(block.refine, REFINEMENTS)
            yield "block", parameters, {**norm, "unit1": kind_of(block.act1), "unit2": kind_of(block.act2),
                                        "refine": refine, "stride": str(block.conv1._kwargs["stride"][0]),
                                        "downsample": str(int(block.downsample is not None))}
    last, head = net.features[5], net.features[6]
    yield "head", norm_parameters(last) + unit_parameters(head), {**norm, "unit": kind_of(head)}
    yield "dense", [net.output.weight, net.output.bias], {"num_hidden": net.output._units}


class Chain(HybridBlock):
    """The steps of a CIFARResNetV2 over the net's own parameters; subclasses turn them into operators."""

    def __init__(self, net):
        super().__init__(prefix="fused_")
        self._steps = list(steps_of(net))
        for _, parameters, _ in self._steps:
            for parameter in parameters:
                self.params.update({parameter.name: parameter})
                self._reg_params[parameter.name] = parameter  # so Gluon hands its array to hybrid_forward


class TrainingTwin(Chain):
    """A CIFARResNetV2 as stem, blocks, head and dense layer. input_gradient: compute the gradient of the images too."""

    def __init__(self, net, input_gradient=False):
        super().__init__(net)
        self._input_gradient = input_gradient

    def hybrid_forward(self, F, x, **arrays):
        for operator, parameters, attributes in self._steps:
            inputs = [arrays[parameter.name] for parameter in parameters]
            if operator == "dense":
                return F.FullyConnected(x, *inputs, **attributes)
            if operator == "stem" and self._input_gradient:
                x = F.identity(x)  # unlike the operator, it can add to the gradient of the images
                attributes = {**attributes, "input_gradient": "1"}
            x = getattr(F, f"atac_{operator}")(x, *inputs, **attributes)


class InferenceTwin(Chain):
    """A CIFARResNetV2 as one operator, which prepares its weights again for every batch: they may have changed."""

    def hybrid_forward(self, F, x, **arrays):
        return F.atac_net_inference(x, *(arrays[parameter.name] for parameter in parameters_in(self._steps)),
                                    layers=layers_attribute(self._steps))


class FrozenTwin(HybridBlock):
    """A CIFARResNetV2 as one operator over a copy of its weights in one array.

    MXNet takes longer to pass the arrays of a net one by one than the net takes for an image. The operator keeps what
    it derives from the weights until they change.
    """

    def __init__(self, net):
        super().__init__(prefix="fused_")
        steps = list(steps_of(net))
        parameters = parameters_in(steps)
        self._attributes = {"layers": layers_attribute(steps),
                            "shapes": ";".join(",".join(map(str, parameter.shape)) for parameter in parameters)}
        contexts = parameters[0].list_ctx()
        with self.name_scope():
            size = sum(int(np.prod(parameter.shape)) for parameter in parameters)
            self.weights = self.params.get("weights", shape=(size,), grad_req="null")
        self.weights.initialize(mx.init.Zero(), ctx=contexts)
        for context in contexts:
            self.weights.data(context)[:] = mx.nd.concat(
                *(parameter.data(context).reshape(-1) for parameter in parameters), dim=0)

    def hybrid_forward(self, F, x, weights):
        return F.atac_net_inference(x, weights, **self._attributes)


def parameters_in(steps):
    return [parameter for _, parameters, _ in steps for parameter in parameters]


def layers_attribute(steps):
    """The steps as the attribute of the operator for a whole net."""
    return ";".join(f"{operator}:{','.join(f'{name}={value}' for name, value in attributes.items())}"
                    for operator, _, attributes in steps)


def twin(net, training):
    """The graph of a CIFARResNetV2 on its own parameters, for training or for inference."""
    return TrainingTwin(net) if training else InferenceTwin(net)


# ---- Any net, with its units of layers as operators


def layered_units(net):
    """The units of a net that deserve an operator of their own: those with several layers."""
    found = []
    for block in blocks_in(net):
        if type(block) in UNITS and layers_of(block) and unit_parameters(block)[-1].shape[0] <= WIDEST:
            with contextlib.suppress(Unfit):
                kind_of(block)
                common_norm(block)
                found.append(block)
    return found


@contextlib.contextmanager
def forwarding(blocks):
    """Within the block, replace hybrid_forward: blocks is a list of (block, function) pairs."""
    for block, function in blocks:
        block.hybrid_forward = function
    try:
        yield
    finally:
        for block, _ in blocks:
            del block.hybrid_forward


def traced(net, training):
    """net's graph with an operator for each unit of layers, and the BatchNorm before it if only the unit reads that."""
    suffix = "" if training else "_inference"
    norms = {id(block): block for block in blocks_in(net) if plain_norm(block)}
    before = {}  # name of a BatchNorm's symbol: (its input, the block)
    merged = []

    def norm_forward(block):
        plain = type(block).hybrid_forward

        def forward(F, x, **arrays):
            result = plain(block, F, x, **arrays)
            before[result.name] = (x, block)
            return result
        return forward

    def unit_forward(unit):
        def forward(F, x):
            attributes, parameters = {"unit": kind_of(unit), **common_norm(unit)}, unit_parameters(unit)
            source, norm = before.get(x.name, (x, None))
            if norm is not None and x.name not in shared and norm_settings(norm) == norm_settings(first_norm(unit)):
                merged.append(x.name)
                x, attributes, parameters = source, {**attributes, "norm": "1"}, norm_parameters(norm) + parameters
            if training and x.name == data.name:  # the operator could not add to the gradient of the images
                x = F.identity(x)
            return getattr(F, f"atac_unit{suffix}")(x, *(parameter.var() for parameter in parameters), **attributes)
        return forward

    units = layered_units(net)
    hooks = [(block, norm_forward(block)) for block in norms.values()]
    hooks += [(unit, unit_forward(unit)) for unit in units]
    shared = set()
    while True:
        data = mx.sym.var("data", dtype="float32")
        with forwarding(hooks):
            graph = net(data)
        # A merged BatchNorm that is still in the graph has other readers: it would move its statistics twice.
        left = set(merged) & {name.rpartition("_output")[0] for name in graph.get_internals().list_outputs()}
        if not left:
            return SymbolBlock(graph, data, params=net.collect_params())
        shared |= left
        merged.clear()
        before.clear()


def first_norm(unit):
    return next(layer for layer in layers_of(unit) if isinstance(layer, nn.BatchNorm))
