"""Gluon nets to PyTorch and their numbers back."""
from model.graph import Graph, graph_of
from model.weights import set_params

from .graph import gluon_names, translate


def arrays_of(net):
    """{structural name: NumPy array} of an initialized Gluon net."""
    from mxnet import nd

    nd.waitall()  # as in backend/gluon/symbol_graph.py
    return {name: parameter.data(parameter.list_ctx()[0]).asnumpy()
            for name, parameter in net._collect_params_with_prefix().items()}


def to_torch(net):
    """An initialized Gluon net as a PyTorch module, in training mode on the CPU, with copies of its numbers.

    state_dict() has Gluon's structural names; BatchNorm's gamma and beta are weight and bias. A Graph with its arrays
    needs no MXNet. Raises InputError for an operator that has no translation.
    """
    if isinstance(net, Graph):
        return translate(net.text, net.arrays)
    return translate(graph_of(net).text, arrays_of(net))


def from_torch(net, state_dict):
    """Give a Gluon net, or a Graph, the numbers of a state_dict of its to_torch. Returns net.

    Everything is checked before anything changes: raises InputError, which names what does not fit.
    """
    names = gluon_names(state_dict)
    arrays = {names[name]: tensor.detach().cpu().numpy() for name, tensor in state_dict.items() if name in names}
    set_params(net, arrays, "the state_dict", None if isinstance(net, Graph) else _devices(net))
    return net


def _devices(net):
    """The devices of an initialized Gluon net; None for another."""
    first = next(iter(net.collect_params().values()))
    return first.list_ctx() if first._data is not None else None
