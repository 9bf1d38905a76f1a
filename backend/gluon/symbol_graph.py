"""A net as MXNet's graph, to be changed for inference: BatchNorms folded, additions kept out of oneDNN's operators."""
import json

import mxnet as mx
import numpy as np
from mxnet import gluon

from model.graph import json_of
from support.errors import InputError

from .fused import weights_missing

DATA = "data"  # name of the input
TRUE = ("True", "1")  # as MXNet writes it in an attribute


class SymbolGraph:
    """A net as MXNet's graph in JSON, whose nodes refer to each other as objects, and its numbers.

    nodes : in the order of the data flow; an input is (node, number of its output, version). values : {name of a
    parameter: its NumPy arrays, one for each context}. takes : which arrays the net takes, or None.
    """

    def __init__(self, symbol, values, contexts, takes, batch_norms=0, folded=0):
        self.values, self.contexts, self.takes = values, contexts, takes
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
        if not isinstance(net, gluon.HybridBlock):
            raise InputError(f"{type(net).__name__} is not a HybridBlock and has no graph; run it as it is")
        try:
            symbol = net(mx.sym.var(DATA))
        except Exception as error:  # a user's block may raise anything when it is called with a symbol
            raise InputError(f"{type(net).__name__} cannot be traced with one symbolic input ({error}); run it as it "
                             "is") from error
        if not isinstance(symbol, mx.sym.Symbol) or len(symbol.list_outputs()) != 1:
            raise InputError(f"{type(net).__name__} has several outputs, and faster forms exist for nets with one; run "
                             "it as it is")
        parameters = net.collect_params()
        mx.nd.waitall()  # inference under way converts weights in place; a copy of such an array is wrong
        used = [name for name in symbol.list_inputs() if name != DATA]
        try:
            contexts = parameters[used[0]].list_ctx() if used else [mx.current_context()]
            values = {name: [parameters[name].data(context).asnumpy() for context in contexts] for name in used}
        except (KeyError, RuntimeError) as error:  # DeferredInitializationError is a RuntimeError
            raise weights_missing(net, error) from error
        graph = cls(symbol, values, contexts, getattr(net, "takes", takes))
        graph.batch_norms = sum(node["op"] == "BatchNorm" for node in graph.nodes)
        return graph

    def like(self, symbol):
        """Another graph with the same numbers."""
        return SymbolGraph(symbol, self.values, self.contexts, self.takes, self.batch_norms, self.folded)

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

    def fold(self):
        """Fold every BatchNorm that can be folded, in place; returns the graph."""
        readers = self.readers()
        replaced = {}  # id of a folded BatchNorm: the convolution that computes it
        variables = []
        for norm in self.nodes:
            if norm["op"] != "BatchNorm" or not self._folds(norm, readers):
                continue
            convolution = norm["inputs"][0][0]
            new = self._new_variables(convolution, norm)
            convolution["inputs"][1:] = [(variable, 0, 0) for variable in new]
            convolution["attrs"]["no_bias"] = "False"
            replaced[id(norm)] = convolution
            variables += new
            self.folded += 1

        def source(entry):
            return (replaced[id(entry[0])], 0, 0) if id(entry[0]) in replaced else entry

        self.nodes = variables + [node for node in self.nodes if id(node) not in replaced]
        for node in self.nodes:
            node["inputs"] = [source(entry) for entry in node["inputs"]]
        self.heads = [source(entry) for entry in self.heads]
        return self

    def _folds(self, norm, readers):
        """Whether a BatchNorm scales the channels of a convolution in NCHW that nothing else reads."""
        (layer, *_), *numbers = norm["inputs"]
        attrs = norm.get("attrs", {})
        own = [source for source, _, _ in layer["inputs"][1:] + numbers]
        return (layer["op"] == "Convolution" and layer["attrs"].get("layout", "NCHW") == "NCHW"
                and readers[id(layer)] == 1 and attrs.get("axis", "1") == "1"
                and attrs.get("output_mean_var") not in TRUE
                and all(source["name"] in self.values for source in own))

    def _new_variables(self, layer, norm):
        """Variable nodes of the folded weight and bias; their numbers go into values."""
        names = [source["name"] for source, _, _ in layer["inputs"][1:]]
        gamma, beta, mean, variance = (source["name"] for source, _, _ in norm["inputs"][1:])
        attrs = norm.get("attrs", {})
        if attrs.get("fix_gamma", "True") in TRUE:
            gamma = None
        epsilon = float(attrs.get("eps", np.float32(1e-3)))  # MXNet's default, rounded as there
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
            name = f"{norm['name']}_folded{self.folded}_{kind}"  # numbered: a BatchNorm may be used twice
            self.values[name] = list(copies)
            new.append({"op": "null", "name": name, "inputs": []})
        return new

    def prepare_for_onednn(self):
        """Rewrite what MXNet's partitioning would not fuse, or fuse wrongly, in place."""
        for node in self.nodes:
            if node["op"] in ("relu", "sigmoid", "tanh"):  # it fuses only F.Activation(x, act_type="relu"), and so on
                node.update(op="Activation", attrs={"act_type": node["op"]})
        # MXNet does not fuse add_n into a convolution. (MXNET_DISABLE_MKLDNN_FUSE_CONV_SUM works for the whole process
        # and is read only as MXNet loads.)
        for node in self.misread_sums():
            node.update(op="add_n", attrs={"num_args": "2"})
        # MXNet mixes up the inputs of some additions in which the convolution is the second term.
        for node in self._sums():
            node["inputs"].sort(key=lambda entry: entry[0]["op"] != "Convolution")

    def misread_sums(self):
        """The additions that MXNet must not fuse with the convolution before them.

        These are the additions whose other term is a layer with more readers. Once such an addition is fused, MXNet
        forgets that it reads the layer, fuses the layer with its other reader, and adds the result of that: the
        shortcut of a pre-activation block would be added after BatchNorm and ReLU.
        """
        readers = self.readers()
        fusing = {id(source) for node in self.nodes if node["op"] in ("Activation", "LeakyReLU", "clip")
                  for source, _, _ in node["inputs"]}
        return [node for node in self._sums() if any(
            readers[id(term)] > 1 and (term["op"] in ("Convolution", "FullyConnected", "BatchNorm")
                                       or term["op"] == "elemwise_add" and id(term) in fusing)
            for term, _, _ in node["inputs"])]

    def _sums(self):
        return [node for node in self.nodes if node["op"] == "elemwise_add"]
