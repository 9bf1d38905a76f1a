"""Every number of a net in training as NumPy arrays by name, there and back: the names of backend.gluon.state.

`name`: a weight or a running statistic, by its structural name in Gluon. `optimizer/name.0`: its momentum.
`running/worker/name`: a running statistic of a worker, if there are several; `name` is then their mean.
"""
import numpy as np
import torch

from engine.steps import Diverged

from .graph import gluon_names


def tensors_of(net):
    """{Gluon's name: Parameter or buffer}."""
    state = net.state_dict(keep_vars=True)
    return {name: state[key] for key, name in gluon_names(state).items()}


def check_weights(net):
    """Raise Diverged if a weight is not finite."""
    for name, tensor in tensors_of(net).items():
        if not torch.isfinite(tensor).all():
            raise Diverged(f"{name} is no longer finite")


def momenta_of(net, optimizer):
    """{name: tensor}: momenta by the names of their arrays; without momentum none."""
    if not any(group["momentum"] for group in optimizer.param_groups):
        return {}
    return {f"optimizer/{name}.0": optimizer.momentum(tensor) for name, tensor in tensors_of(net).items()
            if tensor.requires_grad}


def running_statistics(net, team):
    """BatchNorm's running statistics by name: arrays (workers, ...). Empty if there is but one worker.

    Each worker keeps those of its own share of each batch.
    """
    own = {name: _copied(tensor) for name, tensor in tensors_of(net).items() if not tensor.requires_grad}
    if team.size == 1 or not own:
        return {}
    rows = team.each(np.concatenate([array.ravel() for array in own.values()]))
    edges = np.cumsum([array.size for array in own.values()])[:-1]
    return {name: part.reshape((team.size, *array.shape))
            for (name, array), part in zip(own.items(), np.split(rows, edges, axis=1))}


@torch.no_grad()
def average_running_statistics(net, team):
    """Give all workers the mean of their BatchNorm statistics, which is what a saved file holds."""
    tensors = tensors_of(net)
    for name, rows in running_statistics(net, team).items():
        tensors[name].copy_(torch.from_numpy(rows.mean(axis=0)))


def arrays_of(net, optimizer, team):
    """All numbers by name, float32; all workers of a team call it. Raises Diverged if a weight is not finite."""
    check_weights(net)
    arrays = {name: _copied(tensor) for name, tensor in {**tensors_of(net), **momenta_of(net, optimizer)}.items()}
    for name, rows in running_statistics(net, team).items():
        arrays[name] = rows.mean(axis=0)
        arrays.update({f"running/{worker}/{name}": row for worker, row in enumerate(rows)})
    return arrays


def _copied(tensor):
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()


def forms_of(net, optimizer, team):
    """{name: (shape, type)} of what arrays_of gives."""
    tensors = {**tensors_of(net), **momenta_of(net, optimizer)}
    tensors.update({f"running/{worker}/{name}": tensor for name, tensor in tensors_of(net).items()
                    for worker in range(team.size) if team.size > 1 and not tensor.requires_grad})
    return {name: (tuple(tensor.shape), np.dtype(np.float32)) for name, tensor in tensors.items()}


@torch.no_grad()
def restore(arrays, net, optimizer, team):
    """Give a net and its optimizer what arrays_of gave, or the weights alone."""
    for name, tensor in tensors_of(net).items():
        tensor.copy_(torch.from_numpy(np.array(arrays.get(f"running/{team.rank}/{name}", arrays[name]))))
    for name, tensor in momenta_of(net, optimizer).items():
        if name in arrays:
            tensor.copy_(torch.from_numpy(np.array(arrays[name])))
