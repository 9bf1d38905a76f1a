"""Gluon nets to PyTorch and their numbers back. Needs both MXNet and PyTorch."""
import mxnet as mx

from backend.graph import graph_of
from model.weights import set_params

from .graph import gluon_names, translate


def arrays_of(net):
    """{structural name: NumPy array} of an initialized net."""
    return {name: parameter.data(parameter.list_ctx()[0]).asnumpy()
            for name, parameter in net._collect_params_with_prefix().items()}


def to_torch(net):
    """An initialized Gluon net as a PyTorch module, in training mode on the CPU, with copies of its numbers.

    state_dict() has Gluon's structural names; BatchNorm's gamma and beta are weight and bias. Raises InputError for an
    operator that has no translation.
    """
    return translate(graph_of(net), arrays_of(net))


def from_torch(net, state_dict):
    """Give a Gluon net the numbers of a state_dict of its to_torch. Returns net.

    Everything is checked before anything changes: raises InputError, which names what does not fit.
    """
    names = gluon_names(state_dict)
    arrays = {names[name]: tensor.detach().cpu().numpy() for name, tensor in state_dict.items() if name in names}
    first = next(iter(net.collect_params().values()))
    set_params(net, arrays, "the state_dict", first.list_ctx() if first._data is not None else [mx.cpu()])
    return net
