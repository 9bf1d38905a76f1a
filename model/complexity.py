"""Parameters and multiply-adds of a net, counted on the net itself.

The net is traced symbolically, so the count is the same before and after initialize() and hybridize(). It counts the
multiply-adds of convolutions, dense layers and the dot products of attention, for one image, each multiply-add once. It
does not count biases, normalisation, activations, gates and additions. As a command it prints the table of layers:

    python -m model.complexity atac_resnet20_v2 --blocks 3 --reduction 2
"""
import json
import math
import signal
import sys
from typing import NamedTuple

from support.errors import InputError

from .graph import Graph, graph_of
from .registry import image_size, list_models


class Layer(NamedTuple):
    """One row of the table. Shapes are of one image, without the batch axis."""

    name: str
    operator: str
    output: tuple
    total: int
    trainable: int
    macs: int


class Complexity(NamedTuple):
    """The counts of the whole net; total includes running statistics and frozen parameters."""

    layers: list
    total: int
    trainable: int
    macs: int


def count(net, input_shape=(3, 32, 32)):
    """Count a net that maps (N, *input_shape) to anything: a Gluon net, or a Graph. Returns a Complexity."""
    graph = net if isinstance(net, Graph) else graph_of(net)
    shapes, parameters = graph.shapes((1, *input_shape)), graph.parameters
    # {node: the parameters that it stands for}: itself, or those that it reshapes.
    paths = {node["name"]: [path] for path, node in graph.parameter_nodes.items()}

    layers, seen = [], set()
    for node in graph.nodes:
        sources = [graph.nodes[index] for index, *_ in node["inputs"]]
        inputs = [source["name"] for source in sources]
        if inputs and node["op"].lower() in RESHAPING and all(name in paths for name in inputs):
            paths[node["name"]] = [path for name in inputs for path in paths[name]]
            continue  # not a layer; it feeds one
        own = {path: parameters[path] for name in inputs for path in paths.get(name, ()) if path not in seen}
        seen.update(own)
        macs = _macs(node["op"], shapes[node["name"]], [(source["op"], shapes[source["name"]]) for source in sources])
        if node["op"] == "null" or not (own or macs):
            continue
        layers.append(Layer(
            name=next(iter(own)).rpartition(".")[0] if own else node["name"],
            operator=_operator(node),
            output=tuple(shapes[node["name"]][1:]),
            total=sum(math.prod(parameter.shape) for parameter in own.values()),
            trainable=sum(math.prod(parameter.shape) for parameter in own.values() if parameter.trained),
            macs=macs,
        ))
    return Complexity(layers, *(sum(getattr(layer, field) for layer in layers)
                                for field in ("total", "trainable", "macs")))


RESHAPING = ("reshape", "broadcast_axis", "concat")  # MXNet also calls the first Reshape, the last Concat


def _macs(operator, output, sources):
    """Multiply-adds for one image, from an operator, the shape of its output and (operator, shape) of its inputs."""
    if operator in ("Convolution", "FullyConnected"):  # every output number takes a filter or a row
        return math.prod(output) * math.prod(sources[1][1][1:])
    if operator == "batch_dot":  # (B, M, K) and (B, K, N), each perhaps transposed: M K N = sqrt(MK KN MN)
        (_, first), (_, second) = sources
        return output[0] * math.isqrt(math.prod(first[1:]) * math.prod(second[1:]) * math.prod(output[1:]))
    if operator == "sum" and sources[0][0] in ("broadcast_mul", "elemwise_mul"):  # dot products, written out
        return math.prod(sources[0][1])
    return 0


def _operator(node):
    settings = node.get("attrs", {})
    if node["op"] != "Convolution":
        return node["op"]
    kernel = "x".join(settings["kernel"].strip("() ").replace(" ", "").rstrip(",").split(","))
    groups = settings.get("num_group", "1")
    kind = "" if groups == "1" else f" depthwise/{groups}" if groups == settings["num_filter"] else f" groups/{groups}"
    return f"Convolution {kernel}{kind}"


def table(complexity):
    """The layers as text, one on each line, with the sums below."""
    rows = [("layer", "operator", "output", "total", "trainable", "MACs")]
    rows += [(layer.name, layer.operator, "x".join(map(str, layer.output)), f"{layer.total:,}",
              f"{layer.trainable:,}", f"{layer.macs:,}") for layer in complexity.layers]
    rows.append(("sum", "", "", f"{complexity.total:,}", f"{complexity.trainable:,}", f"{complexity.macs:,}"))
    lines = _in_columns(rows, left=3)
    return "\n".join(lines[:1] + ["-" * len(lines[0])] + lines[1:-1] + ["-" * len(lines[0])] + lines[-1:])


def _in_columns(rows, left):
    """Rows of cells as lines; the first `left` columns are flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) if column < left else cell.rjust(width)
                      for column, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]


CONVENTIONS = ("v1 MACs", "v1b MACs", "2 x v1b MACs")


class Conventions(NamedTuple):
    """A net of Table IV, counted in every way: parameters, and gigaMACs by the names in CONVENTIONS."""

    total: int
    trainable: int
    giga: dict


def conventions(model, get_model):
    """Count a net of Table IV on both hosts, at its own image size. model : its name without the host's version."""
    counts = []
    for name in (f"{model}_v1", f"{model}_v1b"):
        side = image_size(name, {})
        counts.append(count(get_model(name), (3, side, side)))
    v1, v1b = (found.macs / 1e9 for found in counts)
    return Conventions(counts[1].total, counts[1].trainable, dict(zip(CONVENTIONS, (v1, v1b, 2 * v1b))))


def nearest(published, found):
    """The key of the number in a dict that is nearest to a published text; joined by "and" if the text fits several."""
    decimals = len(published.partition(".")[2])
    fitting = [name for name, value in found.items() if f"{value:.{decimals}f}" == published]
    return " and ".join(fitting) or min(found, key=lambda name: abs(found[name] - float(published)))


def main(words):
    """Run the command. words : a model's name, then its keyword arguments as ``--blocks 3`` or ``blocks=3``."""
    from .zoo import get_model

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
    size = image_size(name, arguments)
    print(table(count(net, (3, size, size))))
    return 0


def _value(text):
    """A number or a truth value if the text is one, else the text."""
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # "| head" ends it without a traceback
    sys.exit(main(sys.argv[1:]))
