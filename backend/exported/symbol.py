"""MXNet's own form (net.export): a symbol and its parameters, which MXNet and SymbolBlock.imports read."""
import json
import tempfile
import warnings
from pathlib import Path

import mxnet as mx

from support.files import content

from .about import About

ABOUT = "about"  # among the graph's attributes, which MXNet keeps and does not use


def make(net, about):
    size = about.preprocessing.size
    net.hybridize()
    net(mx.nd.zeros((1, 3, size, size)))
    with tempfile.TemporaryDirectory() as folder:
        net.export(f"{folder}/net")
        graph = json.loads(Path(folder, "net-symbol.json").read_text())
        weights = Path(folder, "net-0000.params").read_bytes()
    graph["attrs"][ABOUT] = ["str", json.dumps(about.as_texts())]
    return [json.dumps(graph, indent=1).encode(), weights]


def load(paths):
    about = About.from_texts(json.loads(json.loads(content(paths[0]))["attrs"][ABOUT][1]), paths[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the type of the images is not known yet
        net = mx.gluon.SymbolBlock.imports(str(paths[0]), ["data"], str(paths[1]))
    return lambda images: net(mx.nd.array(images)).asnumpy(), about, f"MXNet {mx.__version__}'s SymbolBlock"
