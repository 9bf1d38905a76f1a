"""A net's first weights, drawn by NumPy: the start of a run on a machine without MXNet."""
import json
import math

import numpy as np

from engine.seeds import random_stream
from support.errors import InputError

SLOPE = 0.25  # of mx.init.MSRAPrelu, which the authors use
_START = 100  # the purpose of these random numbers; those of the data sets count from 0


def drawn(graph, seed):
    """{structural name: float32 array} for a model.graph.Graph, with the distributions that MXNet draws from.

    A parameter's own initializer stands in the graph; without one it is MSRAPrelu's: Gaussian with the variance
    2 / (1 + SLOPE^2) over the average of the fans. The numbers are others than MXNet's of the same seed. Every array
    has a stream of its own. Raises InputError for a graph that does not say a shape or an initializer.
    """
    return {path: _array(path, graph.parameters[path].shape, node["attrs"].get("__init__"),
                         random_stream(seed, _START, index))
            for index, (path, node) in enumerate(graph.parameter_nodes.items())}


def _array(name, shape, initializer, generator):
    if not shape or min(shape) < 1:
        raise InputError(f"the graph does not say the shape of {name}")
    kind, settings = _initializer(initializer)
    constants = {"zeros": 0, "ones": 1, "constant": settings.get("value")}
    if kind in constants:
        return np.full(shape, constants[kind], np.float32)
    if kind == "normal":
        deviation = settings["sigma"]
    elif kind is None and len(shape) > 1:
        fans = (shape[0] + shape[1]) / 2 * math.prod(shape[2:])
        deviation = math.sqrt(2 / (1 + SLOPE ** 2) / fans)
    else:
        raise InputError(f"the initializer {kind} of {name} has no counterpart here")
    return (deviation * generator.standard_normal(shape)).astype(np.float32)


def _initializer(text):
    """Name and settings of an initializer as MXNet writes it: 'ones', or '["normal", {"sigma": 0.1}]'."""
    if text is None or not text.startswith("["):
        return text, {}
    return json.loads(text)
