"""What was written before there was an Experiment (format 1), brought into the form of today (format 2).

Checkpoints and published weights have `saved`, finished runs `result`. The numbers stay; what they did not say is what
their version did. Every function takes and returns an object of JSON, and InputError says what it lacks.
"""
from support import json_files
from support.errors import InputError
from support.json_files import COUNT, NOTHING, OBJECT, TEXT

from .experiment import FORMAT

OLD = 1
_NEEDED = {"model": TEXT, "arguments": OBJECT, "dataset": TEXT, "label_mode": (NOTHING, TEXT), "recipe": OBJECT,
           "seed": COUNT, "data": OBJECT, "state": (NOTHING, OBJECT)}
# Fields of an experiment that kept their names, where they were written at all.
_SAME = ("model", "dataset", "label_mode", "seed", "val_split", "dtype", "devices")
_OF_STATE = ("first_epoch",)  # stood in the state of a checkpoint


def experiment(old):
    """The experiment in the settings of a run."""
    wrong = json_files.problem({"state": None, **old}, _NEEDED)
    if wrong:
        raise InputError(wrong)
    data, state = old["data"], old.get("state")
    found = {name: old[name] for name in _SAME if name in old}
    # The first ones did not say the length of the output of a net where it was the usual one.
    arguments = {"classes": {"cifar10": 10, "cifar100": 100}.get(old["dataset"], 1000), **old["arguments"]}
    if old["dataset"] == "imagenet":
        found["input_size"] = old.get("input_size") or data.get("input_size") or 224
        found["crop_ratio"] = old.get("crop_ratio") or data.get("crop_ratio") or .875
    return {"format": FORMAT, **found, "arguments": arguments, "recipe": old["recipe"],
            "start": old.get("started_from"), "first_epoch": state.get("first_epoch", 0) if state else 0}


def saved(old):
    """What a parameter file of ours says of itself."""
    made = {"format": FORMAT, "experiment": experiment(old),
            "data": {"class_names": None, **{name: value for name, value in old["data"].items()
                                             if name not in ("input_size", "crop_ratio")}}}
    made.update({name: old[name] for name in ("operators", "command", "scored_on", "score", "workers") if name in old})
    if old.get("state") is not None:
        state = {name: value for name, value in old["state"].items() if name != "first_epoch"}
        made["state"] = {"resumed": 0, "loss_scale": None, **state}
    return made
