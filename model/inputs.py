"""The check of what a net is given, before MXNet computes with it."""
import json

import mxnet as mx
import numpy as np

from support.errors import InputError


class InputCheck:
    """Refuses, in a sentence, an array that a traced net cannot take; takes a look at each shape once.

    MXNet's own operators do not: a BatchNorm of 3 channels that meets 32 reads and writes beyond its arrays.

    name : of the net in the sentence. symbol: its graph. data: name of the graph's input. shapes: {name: shape} of its
        parameters. dtype: of the input.
    """

    def __init__(self, name, symbol, data, shapes, dtype="float32"):
        self.name, self.symbol, self.data, self.dtype = name, symbol, data, np.dtype(dtype)
        self.shapes = {name: tuple(shapes[name]) for name in symbol.list_inputs() if name != data}
        self.taken = set()

    def __call__(self, x):
        """Raise InputError unless the net can be computed for x."""
        if not isinstance(x, mx.nd.NDArray):
            raise InputError(f"{self.name} takes one MXNet array (mx.nd.array makes one), got {type(x).__name__}")
        if np.dtype(x.dtype) != self.dtype:
            raise InputError(f"{self.name} takes {self.dtype.name}, got an array of {np.dtype(x.dtype).name}; "
                             f"convert it with x.astype('{self.dtype.name}')")
        shape = x.shape
        if shape in self.taken:
            return
        reason = self._reason(shape)
        if reason:
            raise InputError(f"{self.name} cannot be computed for an array of shape {shape}: {reason}")
        self.taken.add(shape)

    def _reason(self, shape):
        """Why the net cannot take this shape, as a clause; None if it can."""
        try:
            arguments, _, states = self.symbol.infer_shape_partial(**{self.data: shape}, **self.shapes)
        except mx.MXNetError as error:
            channels = self._channels()
            if channels and (len(shape) != 4 or shape[1] != channels):
                return f"it takes images (N, {channels}, H, W)"
            last = str(error).strip().splitlines()[-1]
            return last.rpartition("Check failed: ")[2].rpartition("MXNetError: ")[2]
        found = dict(zip(self.symbol.list_arguments() + self.symbol.list_auxiliary_states(), arguments + states))
        for name, own in self.shapes.items():
            if found[name] != own:
                return f"{name} would need the shape {found[name]} and has {own}"
        return None

    def _channels(self):
        """Of the images that the net takes; None if it does not begin with a 2-D convolution, normalized or not."""
        nodes = json.loads(self.symbol.tojson())["nodes"]
        for node in nodes:
            if node["op"] == "Convolution":
                weight, source = (nodes[node["inputs"][place][0]] for place in (1, 0))
                while source["op"] == "BatchNorm":
                    source = nodes[source["inputs"][0][0]]
                shape = self.shapes.get(weight["name"], ())
                if source["name"] == self.data and len(shape) == 4:
                    return shape[1] * int(node["attrs"].get("num_group", 1))
        return None
