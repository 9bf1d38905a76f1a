"""A net for inference only: BatchNorm folded into the layer before it, and oneDNN's fused operators if they are right.

    from model import inference
    faster, sentence = inference.optimize(net, images)   # images (N, C, H, W): the batch to be answered later
    logits = faster(images)

`fold` and `optimize` work on the net's symbolic graph, so they take every HybridBlock of one input and one output.
They copy the weights: later changes of the net do not reach the copy, and inference with the copy leaves the net's own
weights in MXNet's layout, on which further training depends.
"""
import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from model import checked
from ops import loader
from support import garbage
from support.errors import InputError
from support.words import counted

from . import agreement, inside
from .fused import fuse
from .symbol_graph import DATA, SymbolGraph

BACKEND = "MKLDNN"  # MXNet 1.9.1's name of its oneDNN subgraphs


class InferenceNet(gluon.SymbolBlock):
    """A graph with its own weights, run in inference mode even while gradients are recorded.

    batch_norms : BatchNorms that the net had. folded : those that are now part of another layer.
    """

    def __init__(self, graph):
        garbage.collect()
        super().__init__(graph.symbol(), [mx.sym.var(DATA, dtype=graph.dtype)])
        self.takes = graph.takes
        self.batch_norms, self.folded = graph.batch_norms, graph.folded
        for name, parameter in self.collect_params().items():
            copies = graph.values[name]
            parameter.shape = copies[0].shape
            parameter.cast(copies[0].dtype)
            parameter.grad_req = "null"
            parameter.initialize(mx.init.Zero(), ctx=graph.contexts)  # overwritten below; draws no random numbers
            for context, copy in zip(graph.contexts, copies):
                parameter.data(context)[:] = mx.nd.array(copy, context, copy.dtype)
        self.hybridize(static_alloc=True, static_shape=True)

    def forward(self, x, *args):
        checked.check(self, x)
        with autograd.pause(train_mode=False):
            return super().forward(x, *args)


def fold(net):
    """A copy of net for inference with every BatchNorm that follows a convolution folded into it.

    net: an initialized HybridBlock of one input and one output; it does not change. A BatchNorm is folded if it alone
    reads the output of a 2D Convolution in NCHW and runs over axis 1: y = gamma (w x + b - mean) / sqrt(var + eps) +
    beta is again linear in x. Weights and biases are computed in float64 from the running statistics of each device and
    rounded once to the net's type. Other BatchNorms stay. Returns an InferenceNet. Raises InputError for a block that
    cannot be traced, has several outputs or is not initialized.
    """
    return InferenceNet(SymbolGraph.of(net).fold())


def optimize(net, example, fused="auto"):
    """The most fused form of net for inference that answers as net does. Returns (callable, sentence); times nothing.

    net: as in `fold`. example: NDArray (N, ...) as net will get it; its shape, type, mean and spread matter. The forms
    tried are, in this order: our own fused operators inside bottlenecks, and oneDNN's around them (float32 nets on
    CPUs); our own for the whole net (model.fuse); folded BatchNorm with oneDNN's; folded BatchNorm alone; net itself.
    Each must agree with the plain net, on each of net's devices (agreement.py). The sentence says which form it is, and
    why.
    fused: "auto" tries all forms; "on" tries also fused units, and raises InputError if our operators do not fit; "off"
    returns net itself. Raises InputError as `fold` does, and for an example that is not a batch for this net.
    """
    if not isinstance(example, mx.nd.NDArray) or len(example.shape) < 2 or 0 in example.shape \
            or str(np.dtype(example.dtype)) not in agreement.TOLERANCE:
        raise InputError("inference.optimize needs an example batch: an NDArray (N, ...) of floating-point numbers, "
                         "as the net will get it")
    checked.check(net, example)
    if fused == "off":
        return net, "inference with the plain net, as asked"
    plain, folded = SymbolGraph.of(net), SymbolGraph.of(net).fold()
    try:
        check = agreement.Agreement(InferenceNet(plain), example, plain.contexts)
    except mx.MXNetError as error:
        raise InputError(f"{type(net).__name__} cannot be run on an example of shape {example.shape} "
                         f"({str(error).strip().splitlines()[-1]}); pass a batch as the net gets it") from error
    if check.fault:
        return net, f"inference with the plain net: {check.fault}, so that no other form can be checked against it"

    forms, reasons = _forms(net, example, fused, plain, folded)
    for name, build in forms:
        try:
            candidate = InferenceNet(build())
            distance = check.distance(candidate)
        except mx.MXNetError as error:
            reasons.append(f"{name} (MXNet fails: {str(error).strip().splitlines()[-1]})")
            continue
        if distance <= check.tolerance:
            return candidate, (f"inference with {name}: within {distance:.0e} of the plain net's logits' spread on "
                               f"{check.images} random images{_unused(reasons)}")
        reasons.append(f"{name} (off by {distance:.0e} of the logits' spread, allowed are {check.tolerance:.0e})")
    return net, f"inference with the plain net{_unused(reasons)}"


def _forms(net, example, fused, plain, folded):
    """The forms to try, [(name, function that builds its SymbolGraph)], and why others are not tried."""
    middles = inside.middles(net) if loader.available()[0] else []
    forward, sentence = fuse(net, "auto" if middles else fused)
    folding = f"{folded.folded} of {folded.batch_norms} BatchNorms folded"
    obstacle = _no_subgraph(folded, str(np.dtype(example.dtype)))
    forms = []
    if middles and not obstacle:
        forms.append((f"fused C++ operators inside {counted(len(middles), 'bottleneck')}, oneDNN's around them",
                      lambda: partitioned(SymbolGraph.of(inside.with_middles(net, middles), plain.takes).fold(),
                                          example)))
    if forward is not net and (forward.own_statistics or fused == "on"):
        forms.append((sentence, lambda: SymbolGraph.of(forward.frozen(), plain.takes)))
    if not obstacle:
        forms.append((f"{folding}, oneDNN's fused operators", lambda: partitioned(folded, example)))
    return ([*forms, (folding, lambda: folded)],
            [f"oneDNN's fused operators ({obstacle})"] if obstacle else [])


def predict(forward, images):
    """NumPy answers to a small NumPy batch, with little overhead.

    forward: a net on the CPU with one output, such as `optimize` returns. images: floats (N, C, H, W) of the net's
    type. They are neither converted nor copied (mx.nd.array would copy them).
    """
    batch = np.ascontiguousarray(images)
    # A view, because MXNet marks the array as read-only.
    return forward(mx.nd.from_numpy(batch.view())).asnumpy()


def _unused(reasons):
    return f"; not used: {'; '.join(reasons)}" if reasons else ""


def _no_subgraph(graph, dtype):
    """Why oneDNN's fused operators cannot be used, or None."""
    if any(context.device_type != "cpu" for context in graph.contexts):
        return "they are for CPUs"
    if not mx.runtime.Features().is_enabled("MKLDNN"):
        return "this build of MXNet has none"
    if {dtype} | {str(copies[0].dtype) for copies in graph.values.values()} != {"float32"}:
        return "they are for float32"
    return None


def partitioned(graph, example):
    """The graph after MXNet's partitioning into oneDNN's fused operators; parameters keep their names and numbers."""
    graph = graph.like(graph.symbol())
    graph.prepare_for_onednn()
    symbol = graph.symbol()
    context = graph.contexts[0]

    def arrays(names):
        return {name: mx.nd.array(graph.values[name][0], context) for name in names if name != DATA}

    arguments = {**arrays(symbol.list_arguments()), DATA: mx.nd.zeros(example.shape, context, example.dtype)}
    return graph.like(symbol.optimize_for(BACKEND, arguments, arrays(symbol.list_auxiliary_states()), context))
