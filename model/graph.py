"""A net's graph as text: MXNet's JSON with the parameters' structural names, which is read without MXNet."""
import functools
import json
from ast import literal_eval
from typing import Any, NamedTuple, Tuple

import numpy as np

# Attributes of a parameter's node: its structural name, and whether nothing trains it.
PATH, FROZEN = "__path__", "__frozen__"


class Parameter(NamedTuple):
    """A parameter of a net. name : Gluon's, without the net's prefix. optional : a gamma that MXNet takes as 1."""

    name: str
    shape: Tuple[int, ...]
    dtype: Any
    trained: bool
    optional: bool


class Graph:
    """The graph of a net that takes images, which stands for the net where MXNet is not there.

    text : as graph_of writes it. shapes : a function of the Graph and the shape of the images, which returns the shape
    of every node's first output by the node's name. arrays : {structural name: NumPy array}, the numbers of the
    parameters that are known so far (model.load_params).
    """

    def __init__(self, text, shapes):
        self.text, self._shapes, self.arrays = text, shapes, {}

    def shapes(self, images):
        """{name of a node: shape of its first output} for images of a shape, (N, C, H, W)."""
        return self._shapes(self, images)

    @functools.cached_property
    def nodes(self):
        return json.loads(self.text)["nodes"]

    @functools.cached_property
    def parameter_nodes(self):
        """{structural name: node} of the parameters."""
        return {node["attrs"][PATH]: node for node in self.nodes if PATH in node.get("attrs", {})}

    @functools.cached_property
    def parameters(self):
        """{structural name: Parameter}."""
        found = {}
        for path, node in self.parameter_nodes.items():
            trained = FROZEN not in node["attrs"]
            found[path] = Parameter(node["name"], literal_eval(node["attrs"].get("__shape__", "()")), np.float32,
                                    trained, optional=path.endswith("gamma") and not trained)
        return found


def parameters_of(net):
    """{structural name: Parameter} of a Gluon net or of a Graph."""
    if isinstance(net, Graph):
        return net.parameters
    return {path: Parameter(without(net.prefix, parameter.name), parameter.shape, parameter.dtype,
                            parameter.grad_req != "null",
                            optional=path.endswith("gamma") and not parameter._differentiable)
            for path, parameter in net._collect_params_with_prefix().items()}


def without(prefix, name):
    return name[len(prefix) * name.startswith(prefix):]


def graph_of(net):
    """The Graph of a Gluon net. Needs MXNet."""
    import mxnet as mx

    symbol = net(mx.sym.var("data"))
    graph = json.loads(json_of(symbol))
    paths = {parameter.name: path for path, parameter in net._collect_params_with_prefix().items()}
    parameters = parameters_of(net)
    for node in graph["nodes"]:
        path = paths.get(node["name"])
        if path is not None:
            node["attrs"][PATH] = path
            if not parameters[path].trained:
                node["attrs"][FROZEN] = "1"
        node["name"] = without(net.prefix, node["name"])  # the prefix counts the nets of this process
    return Graph(json.dumps(graph), lambda _, images: {
        without(net.prefix, name): shape for name, shape in _shapes(symbol, images).items()})


def _shapes(symbol, images):
    """{name of a node: shape of its first output} of a symbol, as MXNet infers them."""
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape(data=images)
    found = {}
    for output, shape in zip(internals.list_outputs(), shapes):
        name = next((output[:-len(end)] for end in ("_output", "_output0") if output.endswith(end)), output)
        found.setdefault(name, shape)
    return found


def json_of(symbol):
    """symbol.tojson(); removing mixed-precision casts leaks a copy of the graph: only if there are any."""
    text = symbol.tojson(remove_amp_cast=False)
    return symbol.tojson() if "amp_cast" in text or "amp_multicast" in text else text
