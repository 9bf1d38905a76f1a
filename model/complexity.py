"""Parameters and multiply-adds of a net, counted on the net itself.

The net is traced symbolically, so the count is the same before and after initialize() and hybridize(). Multiply-adds
are those of convolutions and dense layers for one image, one multiply-add counted once; biases, normalisation,
activations and additions are not counted. As a command it prints the table of layers:

    python -m model.complexity atac_resnet20_v2 --blocks 3 --reduction 2
"""
import json
import signal
import sys
from typing import NamedTuple

import mxnet as mx

from support.errors import InputError


class Layer(NamedTuple):
    """One row of the table. Shapes are of one image, without the batch axis."""

    name: str
    operator: str
    output: tuple
    total: int
    trainable: int
    macs: int


class Complexity(NamedTuple):
    """The whole net: total counts running statistics and frozen parameters too."""

    layers: list
    total: int
    trainable: int
    macs: int


def count(net, input_shape=(3, 32, 32)):
    """Count a net that maps (N, *input_shape) to anything. Returns a Complexity."""
    symbol = net(mx.sym.Variable("data"))
    internals = symbol.get_internals()
    names = internals.list_outputs()
    _, shapes, _ = internals.infer_shape(data=(1,) + tuple(input_shape))
    shape_of = dict(zip(names, shapes))
    parameters = {parameter.name: (path, parameter) for path, parameter in net._collect_params_with_prefix().items()}

    layers, seen = [], set()
    nodes = json.loads(symbol.tojson())["nodes"]
    for node in nodes:
        inputs = [nodes[index]["name"] for index, *_ in node["inputs"]]
        if node["op"].lower() == "reshape" and inputs[0] in parameters:  # no layer: what it feeds is
            parameters[node["name"]] = parameters[inputs[0]]
            continue
        own = [parameters[name] for name in inputs if name in parameters and parameters[name][1].name not in seen]
        seen.update(parameter.name for _, parameter in own)
        if node["op"] == "null" or not (own or node["op"] in ("Convolution", "FullyConnected")):
            continue
        output = shape_of.get(node["name"] + "_output") or shape_of[node["name"] + "_output0"]
        weights = [parameters[name][1].shape for name in inputs if name in parameters]
        layers.append(Layer(
            name=own[0][0].rpartition(".")[0] if own else node["name"],
            operator=_operator(node),
            output=tuple(output[1:]),
            total=sum(_size(parameter) for _, parameter in own),
            trainable=sum(_size(parameter) for _, parameter in own if parameter.grad_req != "null"),
            macs=_macs(node["op"], output, weights[0] if weights else ()),
        ))
    return Complexity(layers, *(sum(getattr(layer, field) for layer in layers)
                                for field in ("total", "trainable", "macs")))


def _size(parameter):
    size = 1
    for length in parameter.shape:
        size *= length
    return size


def _macs(operator, output, weight):
    """Multiply-adds: every output number costs as many as its filter or row has weights."""
    if operator not in ("Convolution", "FullyConnected"):
        return 0
    outputs = 1
    for length in output[1:]:
        outputs *= length
    per_output = 1
    for length in weight[1:]:
        per_output *= length
    return outputs * per_output


def _operator(node):
    settings = node.get("attrs", {})
    if node["op"] != "Convolution":
        return node["op"]
    kernel = "x".join(settings["kernel"].strip("() ").replace(" ", "").rstrip(",").split(","))
    return f"Convolution {kernel}" + (f" depthwise/{settings['num_group']}" * (settings.get("num_group", "1") != "1"))


def table(complexity):
    """The layers as text, a line each, with the sums below."""
    rows = [("layer", "operator", "output", "total", "trainable", "MACs")]
    rows += [(layer.name, layer.operator, "x".join(map(str, layer.output)), f"{layer.total:,}",
              f"{layer.trainable:,}", f"{layer.macs:,}") for layer in complexity.layers]
    rows.append(("sum", "", "", f"{complexity.total:,}", f"{complexity.trainable:,}", f"{complexity.macs:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = ["  ".join(cell.ljust(width) if column < 3 else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
    return "\n".join(lines[:1] + ["-" * len(lines[0])] + lines[1:-1] + ["-" * len(lines[0])] + lines[-1:])


def main(words):
    """The command: a model's name, then its keyword arguments as ``--blocks 3`` or ``blocks=3``."""
    from .zoo import get_model, list_models

    usage = ("usage: python -m model.complexity NAME [--blocks B] [--classes K] [--ARGUMENT VALUE ...]\n"
             f"NAME is one of {', '.join(list_models())}")
    if not words or {"-h", "--help"} & set(words):
        print(usage)
        return 0 if words else 2
    name, *rest = words
    rest = " ".join(rest).replace("=", " ").split()
    if len(rest) % 2 or any(key.lstrip("-")[:1].isdigit() for key in rest[::2]):
        print(f"model.complexity: every argument needs a name and a value\n{usage}", file=sys.stderr)
        return 2
    arguments = {key.lstrip("-").replace("-", "_"): _value(value) for key, value in zip(rest[::2], rest[1::2])}
    try:
        net = get_model(name, **arguments)
    except (InputError, TypeError) as error:
        print(f"model.complexity: {error}", file=sys.stderr)
        return 2
    size = arguments.get("input_size", 32)
    print(table(count(net, (3, size, size))))
    return 0


def _value(text):
    """A number or a truth value where the text is one, else the text."""
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # "| head" ends it without a traceback
    sys.exit(main(sys.argv[1:]))
