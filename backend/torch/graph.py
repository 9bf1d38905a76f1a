"""MXNet's graph of a net as a torch.fx.GraphModule: the same operators on the same arrays; it needs no MXNet.

Modules and parameters stand under the structural names that model.graph.graph_of has put into the graph, so that
state_dict() reads `features.2.0.conv1.weight`. Only BatchNorm's parameters have other names in PyTorch: `torch_name`,
`gluon_names`.
"""
import ast
import inspect
import json

import torch
from torch import fx, nn

from model.graph import FROZEN, PATH
from support.errors import InputError

from . import operators

# The mapping of names. running_mean, running_var and all names of other layers are the same in both.
_BATCHNORM = {"gamma": "weight", "beta": "bias"}


def torch_name(name):
    """The key in a state_dict of the array that Gluon calls name: `bn1.gamma` is `bn1.weight`."""
    path, dot, kind = name.rpartition(".")
    return path + dot + _BATCHNORM.get(kind, kind)


def gluon_names(names):
    """{key: Gluon's name} of a state_dict's keys: `bn1.weight` is `bn1.gamma` if there is a `bn1.running_mean`.

    Without num_batches_tracked, which PyTorch alone has and does not use here.
    """
    names, back = set(names), {there: here for here, there in _BATCHNORM.items()}
    found = {}
    for name in sorted(names):
        path, dot, kind = name.rpartition(".")
        if kind != "num_batches_tracked":
            found[name] = path + dot + (back.get(kind, kind) if f"{path}{dot}running_mean" in names else kind)
    return found


def translate(text, arrays):
    """The module of a graph, in training mode, on the CPU.

    text : the graph, as graph_of writes it, with one output. arrays : {Gluon's name: NumPy array}.
    Raises InputError for what cannot be translated or is missing, with the name of the operator or the array.
    """
    return _Translation(json.loads(text)["nodes"], arrays).module(json.loads(text)["heads"])


class _Translation:
    """The nodes of a graph on their way into `graph`, the parameters into `root`."""

    def __init__(self, nodes, arrays):
        self.nodes, self.arrays = nodes, arrays
        self.root, self.graph = nn.Module(), fx.Graph()
        self.made = {}  # index of a node: its fx.Node
        self.layers = set()  # paths of the modules

    def module(self, heads):
        if len(heads) != 1:
            raise InputError(f"the graph has {len(heads)} outputs; a net with one can be translated")
        for index, node in enumerate(self.nodes):
            if node["op"] != "null":
                self.made[index] = self.operation(node)
            elif self.path(node) is None:
                self.made[index] = self.graph.placeholder(node["name"])
        self.graph.output(self.value(heads[0]))
        return fx.GraphModule(self.root, self.graph, "Net")

    def path(self, node):
        """The structural name of a node that is a parameter, else None."""
        if node["op"] != "null":
            return None
        return node.get("attrs", {}).get(PATH, node["name"] if node["name"] in self.arrays else None)

    def operation(self, node):
        """Translate one operator: to a module if it is the first layer with its parameters, else to a function."""
        name, called = node["op"], f"the operator {node['op']} (node {node['name']})"
        paths = [self.path(self.nodes[index]) for index, *_ in node["inputs"][1:]]
        where = paths[0].rpartition(".")[0] if paths and all(paths) else ""
        own = where and paths[0].endswith((".weight", ".gamma")) and where not in self.layers
        function = (own and operators.MODULES.get(name)) or operators.FUNCTIONS.get(name)
        if function is None:
            raise InputError(f"{called} has no translation here; backend/torch/operators.py has those of "
                             f"{', '.join(sorted({*operators.FUNCTIONS, *operators.MODULES}))}")
        settings = _checked(node, function, called)
        if function is operators.MODULES.get(name):
            self.layers.add(where)
            self.place(where, function(*map(self.parameter, node["inputs"][1:]), **settings))
            return self.graph.create_node("call_module", where, (self.value(node["inputs"][0]),), name=node["name"])
        inputs = tuple(self.value(entry) for entry in node["inputs"])
        return self.graph.create_node("call_function", function, inputs, settings, name=node["name"])

    def value(self, entry):
        """The fx.Node of an input, [index of its node, number of its output, ...]."""
        index, output, *_ = entry
        if output:
            raise InputError(f"output {output} of node {self.nodes[index]['name']} has no translation; only the first "
                             "output of an operator has one")
        if index not in self.made:
            path = torch_name(self.path(self.nodes[index]))
            self.place(path, self.parameter(entry))
            self.made[index] = self.graph.get_attr(path)
        return self.made[index]

    def parameter(self, entry):
        """The array of a parameter's node, as a Parameter."""
        node = self.nodes[entry[0]]
        path = self.path(node)
        if path not in self.arrays:
            raise InputError(f"the array {path} of the graph is missing")
        return nn.Parameter(torch.tensor(self.arrays[path]), requires_grad=FROZEN not in node.get("attrs", {}))

    def place(self, path, what):
        """Put a module or a parameter under its path."""
        *above, last = path.split(".")
        owner = self.root
        for name in above:
            if name not in owner._modules:
                owner.add_module(name, nn.Module())
            owner = owner._modules[name]
        if not hasattr(owner, last):
            setattr(owner, last, what)


def _checked(node, function, called):
    """A node's attributes as Python values, which the function of its operator takes. Raises InputError."""
    settings = {name: value_of(text) for name, text in node.get("attrs", {}).items() if not name.startswith("__")}
    for name, allowed in operators.ALLOWED.get(node["op"], {}).items():
        if settings.get(name, allowed[0]) not in allowed:
            raise InputError(f"{called} has {name}={settings[name]!r}; there is a translation for "
                             f"{' and '.join(map(repr, allowed))}")
    known = inspect.signature(function).parameters if inspect.isfunction(function) else {}  # PyTorch's own take none
    for name in settings:
        if name not in known and "ignored" not in known:
            raise InputError(f"{called} has {name}={settings[name]!r}, which has no translation")
    return settings


def value_of(text):
    """'(1, 1)' is a pair, 'max' a text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
