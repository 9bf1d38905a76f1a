"""A net for inference only: BatchNorm folded into the layer before it, and oneDNN's fused operators if they are right.

    from model import inference
    faster, sentence = inference.optimize(net, images)   # images (N, C, H, W): the batch to be answered later
    logits = faster(images)

`fold` and `optimize` work on the net's symbolic graph, so they take every HybridBlock of one input. They copy the
weights: later changes of the net do not reach the copy, and inference with the copy leaves the net's own weights in
MXNet's layout, on which further training depends.
"""
import json

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from model import checked
from model.graph import json_of
from support import garbage
from support.errors import InputError

from .fused import fuse, weights_missing

BACKEND = "MKLDNN"  # MXNet 1.9.1's name of its oneDNN subgraphs
IMAGES = 64  # at least so many images must get the plain net's answers
# Largest difference from the plain net, in units of the logits' standard deviation. A float16 number
# has 11 bits, so ten roundings are 0.01.
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "float16": 1e-2}


class InferenceNet(gluon.SymbolBlock):
    """A graph with its own weights, run in inference mode even while gradients are recorded.

    batch_norms : BatchNorms that the net had. folded : those that are now part of another layer.
    """

    def __init__(self, graph):
        garbage.collect()
        super().__init__(graph.symbol(), [mx.sym.var(graph.data, dtype=graph.dtype)])
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
    """A copy of net for inference with every BatchNorm that follows a linear layer folded into that layer.

    net: an initialized HybridBlock of one input; it does not change. A BatchNorm is folded if it alone reads the output
    of a Convolution or FullyConnected and runs over its output channels: y = gamma (w x + b - mean) / sqrt(var + eps) +
    beta is again linear in x. Weights and biases are computed in float64 from the running statistics of each device and
    rounded once to the net's type. Other BatchNorms stay. Returns an InferenceNet. Raises InputError for a block that
    cannot be traced or is not initialized.
    """
    graph = _Graph.of(net)
    graph.fold()
    return InferenceNet(graph)


def optimize(net, example, fused="auto"):
    """The most fused form of net for inference that answers as net does. Returns (callable, sentence); times nothing.

    net: as in `fold`. example: NDArray (N, ...) as net will get it; its shape, type, mean and spread matter. The forms
    tried are, in this order: our own fused operators for the whole net (model.fuse), folded BatchNorm with oneDNN's
    fused operators (float32 nets on CPUs), the same without fused additions, folded BatchNorm alone, net itself.
    Each must agree with the plain net within TOLERANCE, on each of net's devices: on at least IMAGES seeded random
    images in batches of N, on a batch of another length, and on the first batch again. The sentence says which form it
    is, and why.
    fused: "auto" tries all forms; "on" tries also fused units, and raises InputError if our operators do not fit; "off"
    returns net itself. Raises InputError as `fold` does, and for an example that is not a batch for this net.
    """
    if not isinstance(example, mx.nd.NDArray) or len(example.shape) < 2 or 0 in example.shape \
            or str(np.dtype(example.dtype)) not in TOLERANCE:
        raise InputError("inference.optimize needs an example batch: an NDArray (N, ...) of floating-point numbers, "
                         "as the net will get it")
    checked.check(net, example)
    if fused == "off":
        return net, "inference with the plain net, as asked"
    plain, folded = _Graph.of(net), _Graph.of(net)
    folded.fold()
    try:
        check = _Check(InferenceNet(plain), example, plain.contexts)
    except mx.MXNetError as error:
        raise InputError(f"{type(net).__name__} cannot be run on an example of shape {example.shape} "
                         f"({str(error).strip().splitlines()[-1]}); pass a batch as the net gets it") from error
    if check.fault:
        return net, f"inference with the plain net: {check.fault}, so that no other form can be checked against it"

    forms, reasons = [], []
    forward, sentence = fuse(net, fused)
    if forward is not net and (forward.own_statistics or fused == "on"):
        forms.append((sentence, lambda: InferenceNet(_Graph.of(forward.frozen(), takes=plain.takes))))
    obstacle = _no_subgraph(folded, str(np.dtype(example.dtype)))
    if obstacle:
        reasons.append(f"oneDNN's fused operators ({obstacle})")
    else:
        forms += [("oneDNN's fused operators",
                   lambda: InferenceNet(_partitioned(folded, _Graph.misread_sums, example))),
                  ("oneDNN's fused operators except additions",
                   lambda: InferenceNet(_partitioned(folded, _Graph.sums, example)))]
    folding = f"{folded.folded} of {folded.batch_norms} BatchNorms folded"
    forms.append((folding, lambda: InferenceNet(folded)))
    for name, build in forms:
        try:
            candidate = build()
            distance = check.distance(candidate)
        except mx.MXNetError as error:
            reasons.append(f"{name} (MXNet fails: {str(error).strip().splitlines()[-1]})")
            continue
        if distance <= check.tolerance:
            what = name if name in (folding, sentence) else f"{folding}, {name}"
            return candidate, (f"inference with {what}: within {distance:.0e} of the plain net's logits' spread on "
                               f"{check.images} random images{_unused(reasons)}")
        reasons.append(f"{name} (off by {distance:.0e} of the logits' spread, allowed are {check.tolerance:.0e})")
    return net, f"inference with the plain net{_unused(reasons)}"


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


# ---- The graph


_FLAGS = {"True": True, "1": True, "False": False, "0": False}


class _Graph:
    """A net as MXNet's graph in JSON, whose nodes refer to each other as objects, and its numbers.

    nodes : in the order of the data flow; an input is (node, number of its output, version). values : {name of a
    parameter: its NumPy arrays, one for each context}. takes : which arrays the net takes, or None.
    """

    def __init__(self, symbol, data, values, contexts, takes, batch_norms=0, folded=0):
        self.data, self.values, self.contexts, self.takes = data, values, contexts, takes
        self.batch_norms, self.folded = batch_norms, folded
        content = json.loads(json_of(symbol))
        self.attrs = content["attrs"]
        self.nodes = content["nodes"]
        for node in self.nodes:
            node["inputs"] = [(self.nodes[index], output, version) for index, output, version in node["inputs"]]
        self.heads = [(self.nodes[index], output, version) for index, output, version in content["heads"]]

    @classmethod
    def of(cls, net, takes=None):
        """Trace net, and copy the numbers that it uses. takes: for a net without an attribute `takes`."""
        parameters = dict(net.collect_params().items())
        data = "data"
        while data in parameters:
            data += "_"
        if not isinstance(net, gluon.HybridBlock):
            raise InputError(f"{type(net).__name__} is not a HybridBlock and has no graph; run it as it is")
        try:
            output = net(mx.sym.var(data))
        except Exception as error:  # a user's block may raise anything when it is called with a symbol
            raise InputError(f"{type(net).__name__} cannot be traced with one symbolic input ({error}); run it as it "
                             "is") from error
        symbol = mx.sym.Group(list(output)) if isinstance(output, (list, tuple)) else output
        used = [name for name in symbol.list_inputs() if name != data]
        try:
            contexts = parameters[used[0]].list_ctx() if used else [mx.current_context()]
            values = {name: [parameters[name].data(context).asnumpy() for context in contexts] for name in used}
        except (KeyError, RuntimeError) as error:  # DeferredInitializationError is a RuntimeError
            raise weights_missing(net, error) from error
        graph = cls(symbol, data, values, contexts, getattr(net, "takes", takes))
        graph.batch_norms = sum(node["op"] == "BatchNorm" for node in graph.nodes)
        return graph

    def like(self, symbol):
        """Another graph with the same numbers."""
        return _Graph(symbol, self.data, self.values, self.contexts, self.takes, self.batch_norms, self.folded)

    @property
    def dtype(self):
        """The type of the first weights, and so of the input."""
        for node in self.nodes:
            if node["op"] in ("Convolution", "FullyConnected") and node["inputs"][1][0]["name"] in self.values:
                return str(self.values[node["inputs"][1][0]["name"]][0].dtype)
        return "float32"

    def symbol(self):
        """The graph as a Symbol, without nodes that nothing needs any more."""
        needed = {id(node) for node, _, _ in self.heads}
        for node in reversed(self.nodes):
            if id(node) in needed:
                needed.update(id(source) for source, _, _ in node["inputs"])
        nodes = [node for node in self.nodes if id(node) in needed]
        index = {id(node): position for position, node in enumerate(nodes)}

        def written(entries):
            return [[index[id(node)], output, version] for node, output, version in entries]

        return mx.sym.load_json(json.dumps({
            "nodes": [{**node, "inputs": written(node["inputs"])} for node in nodes],
            "arg_nodes": [position for position, node in enumerate(nodes) if node["op"] == "null"],
            "heads": written(self.heads), "attrs": self.attrs}))

    def readers(self):
        """{id of a node: how often its output is read}; an output of the net counts as read."""
        count = {}
        for entries in [node["inputs"] for node in self.nodes] + [self.heads]:
            for source, _, _ in entries:
                count[id(source)] = count.get(id(source), 0) + 1
        return count

    def redirect(self, entry_of):
        """Replace the source of every input and head by entry_of(input), if that is not None."""
        for node in self.nodes:
            node["inputs"] = [entry_of(entry) or entry for entry in node["inputs"]]
        self.heads = [entry_of(entry) or entry for entry in self.heads]

    def fold(self):
        """Fold every BatchNorm that can be folded, in place."""
        readers = self.readers()
        replaced, added = {}, {}
        for norm in self.nodes:
            if norm["op"] != "BatchNorm" or not self._folds(norm, readers):
                continue
            layer = norm["inputs"][0][0]
            weight, bias = self._new_variables(layer, norm)
            layer["inputs"] = [layer["inputs"][0], (weight, 0, 0), (bias, 0, 0)]
            layer["attrs"]["no_bias"] = "False"
            added[id(layer)] = [weight, bias]
            replaced[id(norm)] = layer
            self.folded += 1
        self.nodes = [new for node in self.nodes if id(node) not in replaced
                      for new in [*added.get(id(node), []), node]]
        self.redirect(lambda entry: (replaced[id(entry[0])], 0, 0) if id(entry[0]) in replaced else None)

    def _folds(self, norm, readers):
        """Whether a BatchNorm scales the output channels of a linear layer that nothing else reads."""
        (layer, output, _), *numbers = norm["inputs"]
        if layer["op"] not in ("Convolution", "FullyConnected") or output or readers[id(layer)] > 1:
            return False
        attrs = layer["attrs"]
        axis = int(norm.get("attrs", {}).get("axis", 1))
        if layer["op"] == "FullyConnected":
            # Axis 1 is the last one only if the layer flattens its input to (N, C).
            channels = (-1, 1) if _flag(attrs, "flatten", True) else (-1,)
        else:
            layout = attrs.get("layout", "None")
            channels = (1,) if layout == "None" else (layout.index("C"), layout.index("C") - len(layout))
        # A folded BatchNorm has no mean and variance as outputs.
        own = [source for source, _, _ in layer["inputs"][1:] + numbers]
        return (axis in channels and not _flag(norm.get("attrs", {}), "output_mean_var", False)
                and all(source["op"] == "null" and source["name"] in self.values for source in own))

    def _new_variables(self, layer, norm):
        """Variable nodes of the folded weight and bias; their numbers go into values."""
        names = [source["name"] for source, _, _ in layer["inputs"][1:]]
        gamma, beta, mean, variance = (source["name"] for source, _, _ in norm["inputs"][1:])
        if _flag(norm.get("attrs", {}), "fix_gamma", True):
            gamma = None
        epsilon = float(norm.get("attrs", {}).get("eps", np.float32(1e-3)))  # MXNet's default, rounded as there
        folded = []
        for place in range(len(self.contexts)):
            def number(name, place=place):
                return self.values[name][place].astype(np.float64)

            weight = number(names[0])
            with np.errstate(all="ignore"):  # what is not finite here is not finite in the plain net either
                scale = (1 if gamma is None else number(gamma)) / np.sqrt(number(variance) + epsilon)
                bias = ((number(names[1]) if len(names) > 1 else 0) - number(mean)) * scale + number(beta)
                weight = weight * scale.reshape((-1,) + (1,) * (weight.ndim - 1))
                dtype = self.values[names[0]][place].dtype
                folded.append((weight.astype(dtype), bias.astype(dtype)))
        new = []
        for kind, copies in zip(("weight", "bias"), zip(*folded)):
            name = f"{norm['name']}_folded_{kind}"  # names of operators are unique, those of weights may be shared
            while name in self.values:
                name += "_"
            self.values[name] = list(copies)
            new.append({"op": "null", "name": name, "inputs": []})
        return new

    def name_activations(self):
        """Write F.relu(x) as F.Activation(x, act_type="relu"), and so on: MXNet fuses only the latter."""
        for node in self.nodes:
            if node["op"] in ("relu", "sigmoid", "tanh"):
                node.update(op="Activation", attrs={"act_type": node["op"]})

    def misread_sums(self):
        """The additions that MXNet must not fuse with the convolution before them.

        These are the additions whose other term is a layer with more readers. Once such an addition is fused, MXNet
        forgets that it reads the layer, fuses the layer with its other reader, and adds the result of that: the
        shortcut of a pre-activation block would be added after BatchNorm and ReLU.
        """
        readers = self.readers()
        fusing = {id(source) for node in self.nodes if node["op"] in ("Activation", "LeakyReLU", "clip")
                  for source, _, _ in node["inputs"]}
        return [node for node in self.sums() if any(
            readers[id(term)] > 1 and (term["op"] in ("Convolution", "FullyConnected", "BatchNorm")
                                       or term["op"] == "elemwise_add" and id(term) in fusing)
            for term, _, _ in node["inputs"])]

    def sums(self):
        """All additions."""
        return [node for node in self.nodes if node["op"] == "elemwise_add"]

    def keep_apart(self, sums):
        """Turn these additions into add_n, which MXNet does not fuse into a convolution.

        (MXNET_DISABLE_MKLDNN_FUSE_CONV_SUM works for the whole process and is read only as MXNet loads.) In the other
        additions the convolution becomes the first term: MXNet mixes up the inputs of some in which it is the second.
        """
        for node in sums:
            node.update(op="add_n", attrs={"num_args": "2"})
        for node in self.sums():
            node["inputs"].sort(key=lambda entry: entry[0]["op"] != "Convolution")


def _flag(attrs, name, default):
    return _FLAGS[attrs[name]] if name in attrs else default


# ---- oneDNN's subgraphs


def _no_subgraph(graph, dtype):
    """Why oneDNN's fused operators cannot be used, or None."""
    if any(context.device_type != "cpu" for context in graph.contexts):
        return "they are for CPUs"
    if not mx.runtime.Features().is_enabled("MKLDNN"):
        return "this build of MXNet has none"
    if {dtype} | {str(copies[0].dtype) for copies in graph.values.values()} != {"float32"}:
        return "they are for float32"
    return None


def _partitioned(graph, apart, example):
    """The graph after MXNet's partitioning; the additions that `apart` returns are not fused.

    The parameters keep their names and numbers.
    """
    graph = graph.like(graph.symbol())
    graph.name_activations()
    graph.keep_apart(apart(graph))
    symbol = graph.symbol()
    context = graph.contexts[0]

    def arrays(names):
        return {name: mx.nd.array(graph.values[name][0], context) for name in names if name != graph.data}

    arguments = {**arrays(symbol.list_arguments()), graph.data: mx.nd.zeros(example.shape, context, example.dtype)}
    partitioned = symbol.optimize_for(BACKEND, arguments, arrays(symbol.list_auxiliary_states()), context)
    return graph.like(partitioned)


class _Check:
    """The plain net's answers to seeded random images, to compare other forms with.

    images: how many different ones. fault: why nothing can be compared, or None.
    """

    def __init__(self, plain, example, contexts):
        self.tolerance = TOLERANCE[str(np.dtype(example.dtype))]
        batches = _random_batches(example)
        self.images = sum(len(batch) for batch in batches[:-1])
        self.batches = [mx.nd.array(batch, context, example.dtype) for context in contexts for batch in batches]
        self.expected = [_answers(plain, batch) for batch in self.batches]
        outputs = [np.concatenate(answers) for answers in zip(*self.expected)]
        self.fault = None
        if not all(np.isfinite(output).all() for output in outputs):
            self.fault = "it answers random images with numbers that are not finite"
        elif any((output == output[0]).all() for output in outputs):
            self.fault = "it answers all random images alike"
        else:
            self.spreads = [output.std() for output in outputs]

    def distance(self, net):
        """Largest difference over all answers, in units of the spread; infinity if an answer is not finite."""
        worst = 0.0
        for batch, expected in zip(self.batches, self.expected):
            for answer, right, spread in zip(_answers(net, batch), expected, self.spreads):
                if answer.shape != right.shape or not np.isfinite(answer).all():
                    return np.inf
                worst = max(worst, float(np.abs(answer - right).max() / spread))
        return worst


def _random_batches(example):
    """Batches of the example's length with IMAGES images or more, one of another length, and the first one again.

    They are white noise with the example's mean and spread. If the input does not fit BatchNorm's statistics at all, a
    deep net can enlarge each rounding a thousand times.
    """
    values = example.astype("float64").asnumpy()
    mean, spread = values.mean(), values.std()
    if not np.isfinite(spread) or spread == 0:
        mean, spread = 0.0, 1.0
    random = np.random.RandomState(0)
    length = len(values)
    other = length // 2 + 1 if length > 2 else length + 1
    batches = [mean + spread * random.standard_normal((count,) + values.shape[1:])
               for count in [length] * -(-IMAGES // length) + [other]]
    return [*batches, batches[0]]


def _answers(net, batch):
    """The net's outputs as a list of float64 arrays."""
    outputs = net(batch)
    return [output.asnumpy().astype(np.float64)
            for output in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]
