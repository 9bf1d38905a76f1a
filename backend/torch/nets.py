"""The networks on a machine without MXNet: `model`, as far as a run needs it, on graphs from a file.

params/graphs.xz (model.graph_file) holds the nets of the paper, for any number of classes.
"""
import functools
import json

import numpy as np
import torch
from torch.fx.passes.shape_prop import ShapeProp

from model import array_names, complexity, graph_file, weights
from model.graph import Graph
from model.registry import complete_arguments, image_size, list_models
from model.weights import load_params
from support.errors import InputError

from .graph import translate

__all__ = ["array_names", "complete_arguments", "complexity", "get_model", "image_size", "list_models", "load_params",
           "weights"]
_graphs = functools.lru_cache(maxsize=1)(graph_file.read)


def get_model(name, pretrained=False, classes=None, root=weights.SHIPPED, **kwargs):
    """The Graph of a net, with its arrays if it is pretrained. Arguments as those of model.get_model.

    Raises InputError for an unknown name and for arguments with which the file holds no graph; TypeError for an
    argument that the net does not have.
    """
    arguments = complete_arguments(name, kwargs if classes is None else {"classes": classes, **kwargs})
    name = str(name).lower()
    net = Graph(_with_classes(_graph_of(name, arguments), arguments["classes"]), shapes_of)
    if pretrained:
        weights.load_pretrained(net, name, arguments, pretrained, root)
    return net


def shapes_of(graph, images):
    """{name of a node: shape of its output} for images of a shape, as PyTorch finds them without computing."""
    arrays = {path: np.empty(parameter.shape, np.float32) for path, parameter in graph.parameters.items()}
    module = translate(graph.text, arrays).eval().to("meta")
    ShapeProp(module).propagate(torch.empty(images, device="meta"))
    found = {node.name: tuple(node.meta["tensor_meta"].shape) for node in module.graph.nodes if node.op != "output"}
    return {**found, **{node["name"]: graph.parameters[path].shape for path, node in graph.parameter_nodes.items()}}


def _graph_of(name, arguments):
    """The graph of a net in the file. Raises InputError if the file does not hold it."""
    wanted = _without_classes(arguments)
    offers = [(_without_classes(each["arguments"]), each["graph"]) for each in _graphs() if each["model"] == name]
    for offer, graph in offers:
        if offer == wanted:
            return graph
    differ = min(([key for key in wanted if wanted[key] != offer.get(key)] for offer, _ in offers), key=len,
                 default=list(wanted))
    raise InputError(f"{name} with {', '.join(f'{key}={wanted[key]!r}' for key in differ)} is built by MXNet alone, "
                     f"which is not installed; {graph_file.FILE.name} holds the nets of the paper's exhibits")


def _without_classes(arguments):
    return {name: value for name, value in arguments.items() if name != "classes"}


def _with_classes(graph, classes):
    """The text of a graph with another length of the last layer."""
    nodes = [dict(node, attrs=dict(node.get("attrs", {}))) for node in graph["nodes"]]
    last = next(node for node in reversed(nodes) if node["op"] == "FullyConnected")
    old, new = last["attrs"]["num_hidden"], str(classes)
    last["attrs"]["num_hidden"] = new
    for index, *_ in last["inputs"][1:]:
        attributes = nodes[index]["attrs"]
        attributes["__shape__"] = attributes["__shape__"].replace(f"({old},", f"({new},", 1)
    return json.dumps({**graph, "nodes": nodes})
