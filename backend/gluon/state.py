"""Every number of a net in training as NumPy arrays by name, there and back.

`name`: a weight or a running statistic, by its structural name. `optimizer/name.i`: NAG's i-th state of that weight.
`running/d/name`: a running statistic on device d, if there are several; d counts the devices worker by worker.

Everything is float32: a float16 net gives its master weights, so the states of both types are interchangeable.
"""
import ctypes

import mxnet as mx
import numpy as np

from engine.steps import Diverged


def check_weights(net):
    """Raise Diverged if a weight is not finite. The loss may not show it: MXNet's ReLU turns NaN into 0."""
    for name, parameter in net._collect_params_with_prefix().items():
        for copy in parameter.list_data():
            if not np.isfinite(copy.asnumpy()).all():
                raise Diverged(f"{name} is no longer finite")


def running_statistics(net, team=None):
    """BatchNorm's running statistics: {structural name: [array of each device, worker by worker]}.

    Each device keeps the statistics of its own share of each batch. {} if there is only one device.
    """
    parameters = {name: parameter for name, parameter in net._collect_params_with_prefix().items()
                  if parameter.grad_req == "null"}
    own = {name: [copy.as_in_context(mx.cpu()) for copy in parameter.list_data()]
           for name, parameter in parameters.items()}
    if team is None or team.size == 1:
        return {name: copies for name, copies in own.items() if len(copies) > 1}
    devices = len(next(iter(own.values()), []))
    numbers = np.zeros((team.size, devices, sum(copies[0].size for copies in own.values())))
    for device in range(devices):
        numbers[team.rank, device] = np.concatenate([copies[device].asnumpy().ravel() for copies in own.values()])
    numbers = team.total(numbers).reshape(team.size * devices, -1)  # exact: each row is zero on all workers except one
    edges = np.cumsum([0] + [copies[0].size for copies in own.values()])
    return {name: [mx.nd.array(row[start:end].reshape(copies[0].shape), dtype=copies[0].dtype) for row in numbers]
            for (name, copies), start, end in zip(own.items(), edges, edges[1:])}


def mean(arrays):
    """The mean of MXNet arrays of one shape on the CPU."""
    return mx.nd.add_n(*arrays) / len(arrays)


def average_running_statistics(net, team=None):
    """Give all devices of all workers the mean of their BatchNorm statistics.

    A saved file holds that mean; without this call an evaluation would use the statistics of one device.
    """
    parameters = net._collect_params_with_prefix()
    for name, copies in running_statistics(net, team).items():
        parameters[name].set_data(mean(copies))


def restore_layout(net):
    """Bring the weights back to MXNet's plain layout after inference.

    On a CPU, inference converts each convolution's weights in place to oneDNN's blocked layout. A training step that
    meets such a weight may pick another kernel, depending on the threads' timing, and the run would no longer be
    repeatable to the bit. Asking for an array's address converts it back.
    """
    mx.nd.waitall()
    for parameter in net.collect_params().values():
        for array in parameter.list_data():
            if array.context.device_type == "cpu":
                mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(ctypes.c_void_p())))


def arrays_of(net, trainer=None, team=None):
    """All numbers by name; without a trainer no optimizer's state. Raises Diverged if a weight is not finite.

    All workers of a team must call it: each has statistics of its own.
    """
    check_weights(net)
    running = running_statistics(net, team)
    found = {name: mean(running[name]) if name in running else parameter.list_data()[0]
             for name, parameter in net._collect_params_with_prefix().items()}
    if trainer is not None:
        found.update(_masters(net, trainer))
    arrays = {name: array.astype("float32", copy=False).asnumpy() for name, array in found.items()}
    if trainer is not None:
        arrays.update({f"optimizer/{name}.{index}": array.asnumpy() for name, states in _states(net, trainer).items()
                       for index, array in enumerate(states)})
        arrays.update({f"running/{device}/{name}": copy.asnumpy() for name, copies in running.items()
                       for device, copy in enumerate(copies)})
    return arrays


def forms_of(net, trainer, team=None):
    """{name: (shape, type)} of the arrays that arrays_of gives."""
    parameters = net._collect_params_with_prefix()
    forms = {name: (parameter.shape, np.dtype(np.float32)) for name, parameter in parameters.items()}
    forms.update({f"optimizer/{name}.{index}": (array.shape, np.dtype(array.dtype))
                  for name, states in _states(net, trainer).items() for index, array in enumerate(states)})
    devices = _devices(net) * (team.size if team is not None else 1)
    forms.update({f"running/{device}/{name}": (parameter.shape, np.dtype(parameter.dtype))
                  for name, parameter in parameters.items() if parameter.grad_req == "null"
                  for device in range(devices) if devices > 1})
    return forms


def restore(arrays, net, trainer, team=None):
    """Set a net and its trainer, on all devices, to the arrays of arrays_of, or to the weights alone."""
    devices, rank = _devices(net), team.rank if team is not None else 0
    for name, parameter in net._collect_params_with_prefix().items():
        parameter.set_data(mx.nd.array(arrays[name], dtype=parameter.dtype))
        for device, copy in enumerate(parameter.list_data()):
            own = arrays.get(f"running/{rank * devices + device}/{name}")
            if own is not None:
                copy[:] = own
    for device in range(devices):
        for name, states in _states(net, trainer, device).items():
            for index, array in enumerate(states):
                if f"optimizer/{name}.{index}" in arrays:
                    array[:] = arrays[f"optimizer/{name}.{index}"]
        for name, master in _masters(net, trainer, device).items():
            master[:] = arrays[name]


def _devices(net):
    return len(next(iter(net.collect_params().values())).list_ctx())


def _states(net, trainer, device=0):
    """The optimizer's arrays on one device without master weights: {structural name: list}, for NAG of length 1 or 0.

    Trainer offers its states only as a pickle, and reading a crafted pickle runs code.
    """
    return {name: _flat(state[0] if np.dtype(parameter.dtype) == np.float16 else state)
            for name, parameter, state in _trained(net, trainer, device)}


def _masters(net, trainer, device=0):
    """The float32 master weights of the float16 parameters on one device, by structural name."""
    return {name: state[1] for name, parameter, state in _trained(net, trainer, device)
            if np.dtype(parameter.dtype) == np.float16}


def _trained(net, trainer, device):
    for name, parameter in net._collect_params_with_prefix().items():
        if parameter.grad_req != "null":
            yield name, parameter, optimizer_state(trainer, parameter, device)


def optimizer_state(trainer, parameter, device=0):
    """A parameter's state in the optimizer on one device; created as zeros before the first step.

    It is the momentum (or None); for a float16 parameter (momentum, float32 master weight).
    """
    updater, index = trainer._updaters[device], trainer._param2idx[parameter.name]
    if index not in updater.states:
        updater.states[index] = trainer._optimizer.create_state_multi_precision(index, parameter.list_data()[device])
        updater.states_synced[index] = True
    return updater.states[index]


def _flat(state):
    """The arrays in an optimizer's state, which is None, an array or a tuple of states."""
    if state is None:
        return []
    if isinstance(state, (tuple, list)):
        return [array for part in state for array in _flat(part)]
    return [state]
