"""Checkpoints: one `.params` file that MXNet reads as it is; everything else that a resume needs follows the weights.

The archive after the weights (support/params_file.py) holds `settings.json` and, to resume the training, the backend's
arrays with a `/` in their names: `optimizer/<array>.<i>.npy` (i counts NAG's states of an array) and, with several
devices, `running/<device>/<array>.npy` (BatchNorm statistics, which differ between devices). The random state is the
seed and the position: the order of an epoch and the crops of a step are functions of them, and nothing else is random.
Nothing is pickled.
"""
import dataclasses
import io
import json
from typing import Optional

import numpy as np

from support import json_files, npz_file, params_file
from support.errors import InputError
from support.json_files import COUNT, LINES, NOTHING, NUMBER, OBJECT, SHARE, SOME, TEXT, Kind

from . import old_forms
from .experiment import FORMAT, Experiment, fields_of, format_of
from .steps import LossScale

SETTINGS = "settings.json"

SCALE = {"value": Kind("a number of at least 2^-24 and at most 2^16", lambda value: NUMBER.holds(value)
                       and LossScale.LEAST <= value <= LossScale.MOST), "sound": COUNT, "left_out": COUNT}
BEST = {"epoch": COUNT, "accuracy": SHARE, "loss": NUMBER, "top5": SHARE}
STATE = {"epoch": COUNT, "step": COUNT, "meter": {"images": COUNT, "loss_sum": NUMBER, "correct": COUNT},
         "best": (NOTHING, BEST), "resumed": COUNT, "loss_scale": (NOTHING, SCALE)}


@dataclasses.dataclass(frozen=True)
class Saved:
    """What a parameter file of ours says of itself. Raises InputError for values that no run writes.

    data : sha256, variant, official and class_names of the training data.
    state : the position of the run, to resume it; None in a published file. score : of the weights, if it is known.
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
        return {"format": FORMAT, **vars(self), "experiment": self.experiment.as_json()}

    @classmethod
    def from_json(cls, value):
        """Back from `as_json`, also from the form of an earlier version. Raises InputError that says what is wrong."""
        if isinstance(value, dict) and value.get("format") == old_forms.OLD:
            value = old_forms.saved(value)
        fields = fields_of(cls, format_of(value))
        return cls(**{**fields, "experiment": Experiment.from_json(fields["experiment"])})


def save(path, arrays, saved):
    """Write the arrays of a backend (Program.arrays) and a Saved; path is whole or untouched.

    Raises InputError if the file cannot be written.
    """
    attachments = {SETTINGS: json.dumps(saved.as_json(), indent=1, sort_keys=True).encode()}
    attachments.update({f"{name}.npy": _npy(array) for name, array in arrays.items() if "/" in name})
    params_file.write(path, {name: array for name, array in arrays.items() if "/" not in name}, attachments)


def read(path, required=True):
    """The Saved of a file of ours. For a file without one: None, or InputError if it is required."""
    return saved_in(path, params_file.read(path)[1], required)


def saved_in(path, attachments, required=True):
    """As `read`, for a file whose archive has been read already."""
    if SETTINGS not in attachments:
        if required:
            raise InputError(f"{path} holds weights only, not a run to resume; start a new run from them with "
                             "--resume-params")
        return None
    try:
        return Saved.from_json(json_files.loads(attachments[SETTINGS]))
    except ValueError as error:
        raise InputError(f"{path}: its settings cannot be used: {error}; use another checkpoint") from error


def load(path, forms):
    """The arrays and the Saved of a checkpoint, to resume a training.

    forms : {name: (shape, type)} of the backend's arrays (Program.forms). Raises InputError if the file is damaged,
    belongs to another net or was written with another number of devices.
    """
    arrays, attachments = params_file.read(path)
    saved = saved_in(path, attachments)
    if {name: array.shape for name, array in arrays.items()} \
            != {name: shape for name, (shape, _) in forms.items() if "/" not in name}:
        raise InputError(f"{path} is a checkpoint of another net; give the settings that it was trained with")
    for name, array in arrays.items():
        params_file.check_numbers(path, name, array)
    wanted = {name: form for name, form in forms.items() if "/" in name}
    written, devices = _devices(attachments), _devices(wanted)
    if written != devices:
        raise InputError(f"{path} was written by a run on {written} device(s), this one has {devices}; resume with "
                         f"{written}")
    members = {name: _member(path, attachments, f"{name}.npy", *form) for name, form in wanted.items()}
    return {**arrays, **members}, saved


def weights(path):
    """The weights of a file, by structural name."""
    return params_file.read(path)[0]


def _devices(names):
    """How many devices have their own statistics among these names; 1 if none has."""
    return len({name.split("/")[1] for name in names if name.startswith("running/")}) or 1


def _npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _member(path, attachments, name, shape, dtype):
    """An array of the archive. Raises InputError unless it has this shape and type."""
    if name not in attachments:
        raise InputError(f"{path} holds no {name}: it is not a checkpoint of a run, or it is one of another net")
    try:
        value = npz_file.array_of(attachments[name])
    except ValueError as error:
        raise InputError(f"{path}: {name} {error}; use another checkpoint") from None
    if value.shape != shape or value.dtype != dtype:
        raise InputError(f"{path}: {name} is {value.dtype} {value.shape}, not {dtype} {shape}; use another checkpoint")
    params_file.check_numbers(path, name[:-len(".npy")], value)
    return value
