"""The graphs of the paper's nets for machines without MXNet (model.graph_file), traced here by MXNet."""
import json

from model import complete_arguments, get_model
from model.graph import graph_of
from model.registry import CIFAR, IMAGENET, IMAGENET_V1

from .grid import CELLS


def nets():
    """(name, arguments as JSON) of the exhibits' nets, of every net of the registry at b = 1 to 5, and of the authors'
    units without inner ReLU; ResNet-50 with both starts of the last gamma."""
    found = {_net(cell.model, {**cell.net, "classes": 10}) for cell in CELLS}
    for host in (CIFAR, IMAGENET, IMAGENET_V1):
        sizes = [{"blocks": blocks} for blocks in range(1, 6)] if host is CIFAR else [{}, {"last_gamma": True}]
        for name, part in host.parts.items():
            variants = [{"variant": variant} for variant in part.variants or ()] or [{}]
            variants += [{"inner_relu": False}] * ("inner_relu" in part.arguments)
            found |= {_net(host.model(name), {**size, **variant}) for size in sizes for variant in variants}
    return sorted(found)


def _net(name, arguments):
    return name, json.dumps(complete_arguments(name, arguments))


def traced():
    """{(name, arguments as JSON): text of the graph} of all nets."""
    return {(name, arguments): graph_of(get_model(name, **json.loads(arguments))).text for name, arguments in nets()}
