"""Checkpoints: one `.params` file that MXNet reads as it stands, with all that a run needs to go on behind the weights.

The archive behind the weights (support/params_file.py) holds `settings.json` and, for training to go on,
`optimizer/<array>.<i>.npy` (i counts NAG's states of an array; device 0, all are equal) and, with several devices,
`running/<device>/<array>.npy` (BatchNorm statistics, which differ between devices; the devices of several workers are
counted through, worker by worker). The random state is the seed and the position: the order of an epoch and the crops
of a step are functions of them, and nothing else is drawn.
Nothing is pickled. Everything is float32: a float16 run writes its master weights, so that its file and that of a
float32 run are interchangeable.
"""
import dataclasses
import io
import json
from typing import Optional

from support import runtime

runtime.prepare()  # before MXNet loads

import mxnet as mx
import numpy as np

from backend.gluon import loop
from support import json_files, params_file
from support.errors import InputError
from support.json_files import COUNT, LINES, NOTHING, NUMBER, OBJECT, SHARE, SOME, TEXT, Kind

from . import old_forms
from .experiment import FORMAT, Experiment, fields_of, format_of

SETTINGS = "settings.json"

SCALE = {"value": Kind("a number of at least 2^-24 and at most 2^16", lambda value: NUMBER.holds(value)
                       and loop.LossScale.LEAST <= value <= loop.LossScale.MOST), "sound": COUNT, "left_out": COUNT}
BEST = {"epoch": COUNT, "accuracy": SHARE, "loss": NUMBER, "top5": SHARE}
STATE = {"epoch": COUNT, "step": COUNT, "meter": {"images": COUNT, "loss_sum": NUMBER, "correct": COUNT},
         "best": (NOTHING, BEST), "resumed": COUNT, "loss_scale": (NOTHING, SCALE)}


@dataclasses.dataclass(frozen=True)
class Saved:
    """What a parameter file of ours says of itself. Raises InputError for what no run writes.

    data : sha256, variant, official and class_names of what the net was trained on.
    state : where the run stood, to resume it; None in a published file. score : of the weights, where they were scored.
    """

    experiment: Experiment
    data: dict
    operators: str = ""
    command: str = ""
    scored_on: Optional[str] = None
    state: Optional[dict] = None
    score: Optional[dict] = None
    workers: int = 1

    SHAPE = {"data": {"sha256": TEXT, "variant": LINES, "class_names": (NOTHING, [TEXT])}, "operators": LINES,
             "command": LINES, "scored_on": (NOTHING, TEXT), "state": (NOTHING, STATE), "score": (NOTHING, OBJECT),
             "workers": SOME}

    def as_json(self):
        """An object for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"format": FORMAT, **fields, "experiment": self.experiment.as_json()}

    @classmethod
    def from_json(cls, value):
        """Back from `as_json`, or from what an earlier version wrote. InputError says what is wrong."""
        if isinstance(value, dict) and value.get("format") == old_forms.OLD:
            value = old_forms.saved(value)
        fields = fields_of(cls, format_of(value))
        return cls(**{**fields, "experiment": Experiment.from_json(fields["experiment"])})


def save(path, net, saved, trainer=None, team=None):
    """Write weights, a Saved and, with a trainer, its optimizer's state; path is whole or untouched.

    All workers of a team call it, for each has statistics of its own; the first one alone writes. Raises Diverged, and
    writes nothing, when a weight is not finite; InputError when the disk refuses.
    """
    loop.check_weights(net)
    running = loop.running_statistics(net, team)
    if team is not None and team.rank:
        return
    weights = {name: (loop.mean(running[name]) if name in running else parameter.list_data()[0].as_in_context(mx.cpu()))
               .astype("float32", copy=False) for name, parameter in net._collect_params_with_prefix().items()}
    if trainer is not None:
        weights.update({name: master.as_in_context(mx.cpu()) for name, master in _masters(net, trainer).items()})
    attachments = {SETTINGS: json.dumps(saved.as_json(), indent=1, sort_keys=True).encode()}
    if trainer is not None:
        for name, states in _states(net, trainer).items():
            for index, state in enumerate(states):
                attachments[f"optimizer/{name}.{index}.npy"] = _npy(state.asnumpy())
        for name, copies in running.items():
            for device, copy in enumerate(copies):
                attachments[f"running/{device}/{name}.npy"] = _npy(copy.asnumpy())
    params_file.write(path, weights, attachments)


def read(path, required=True):
    """The Saved of a file of ours. A file without one gives None, or InputError where it is required."""
    return saved_in(path, params_file.read(path)[1], required)


def saved_in(path, attachments, required=True):
    """The same for a file whose archive has been read already."""
    if SETTINGS not in attachments:
        if required:
            raise InputError(f"{path} holds weights only, not a run of ours to go on from; "
                             "use --resume-params to start a new run from its weights")
        return None
    try:
        return Saved.from_json(json_files.loads(attachments[SETTINGS]))
    except ValueError as error:
        raise InputError(f"{path}: its settings cannot be used: {error}; use another checkpoint") from error


def restore(path, net, trainer, team=None):
    """Bring an initialized net and its trainer back to the state of a checkpoint; returns its Saved.

    All workers of a team call it, each with a path to the same file. Everything is checked before anything changes.
    Raises InputError when the file is damaged, is of another net or was written with another number of devices.
    """
    arrays, attachments = params_file.read(path)
    saved = saved_in(path, attachments)
    parameters = net._collect_params_with_prefix()
    if {name: array.shape for name, array in arrays.items()} \
            != {name: parameter.shape for name, parameter in parameters.items()}:
        raise InputError(f"{path} is a checkpoint of another net; give the settings that it was trained with")
    for name, array in arrays.items():
        params_file.check_numbers(path, name, array)

    optimizer = {}
    for name, states in _states(net, trainer).items():
        for index, state in enumerate(states):
            optimizer[name, index] = _member(path, attachments, f"optimizer/{name}.{index}.npy", state)
    own = {}
    devices = len(next(iter(parameters.values())).list_ctx())
    recorded = {member.split("/")[1] for member in attachments if member.startswith("running/")}
    rank, workers = (team.rank, team.size) if team is not None else (0, 1)
    if (len(recorded) or 1) != devices * workers:
        raise InputError(f"{path} was written by a run on {len(recorded) or 1} device(s), this one has "
                         f"{devices * workers}; resume with as many")
    if recorded:
        for name, parameter in parameters.items():
            if parameter.grad_req == "null":
                for device in range(devices):
                    member = f"running/{rank * devices + device}/{name}.npy"
                    own[name, device] = _member(path, attachments, member, parameter)

    for name, parameter in parameters.items():
        parameter.set_data(mx.nd.array(arrays[name], dtype=parameter.dtype))
        for device, copy in enumerate(parameter.list_data()):
            if (name, device) in own:
                copy[:] = own[name, device]
    for device in range(devices):
        for name, states in _states(net, trainer, device).items():
            for index, state in enumerate(states):
                state[:] = optimizer[name, index]
        for name, master in _masters(net, trainer, device).items():
            master[:] = arrays[name]
    return saved


def _states(net, trainer, device=0):
    """The optimizer's arrays on one device but for master weights, by structural name: lists, for NAG of 1 or 0.

    Trainer offers its states only as a pickle, which would run code from a crafted file when it is read.
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
            yield name, parameter, loop.optimizer_state(trainer, parameter, device)


def _flat(state):
    """The arrays in an optimizer's state, which is None, an array or a tuple of states."""
    if state is None:
        return []
    if isinstance(state, (tuple, list)):
        return [array for part in state for array in _flat(part)]
    return [state]


def _npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _member(path, attachments, name, like):
    """An array of the archive, which must have the shape and the type of `like`."""
    if name not in attachments:
        raise InputError(f"{path} holds no {name}: it is not a checkpoint to go on from, or one of another net")
    try:
        stream = io.BytesIO(attachments[name])
        value = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise ValueError("more follows the array")
    except Exception as error:  # a crafted header can break NumPy's reader in many ways, and be quoted by it
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise InputError(f"{path}: {name} cannot be read ({reason}); use another checkpoint") from error
    if value.shape != like.shape or value.dtype != like.dtype:
        raise InputError(f"{path}: {name} is {value.dtype} {value.shape}, not {np.dtype(like.dtype)} {like.shape}; "
                         "use another checkpoint")
    params_file.check_numbers(path, name[:-len(".npy")], value)
    return value


def load_weights(path, net):
    """Give net, on all its devices, the weights of a checkpoint of its own run."""
    arrays, _ = params_file.read(path)
    for name, parameter in net._collect_params_with_prefix().items():
        parameter.set_data(mx.nd.array(arrays[name], dtype=parameter.dtype))
