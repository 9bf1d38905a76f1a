"""Checkpoints and published weights from before there was an Experiment (format 1), in today's form (format 2).

The numbers stay; a missing value becomes what that version did.
"""
from support import json_files
from support.errors import InputError
from support.json_files import COUNT, NOTHING, OBJECT, TEXT

from .experiment import FORMAT
from .recipe import CROP_RATIO, INPUT_SIZE

OLD = 1
_NEEDED = {"model": TEXT, "arguments": OBJECT, "dataset": TEXT, "label_mode": (NOTHING, TEXT), "recipe": OBJECT,
           "seed": COUNT, "data": OBJECT, "state": (NOTHING, OBJECT)}
# Fields of an experiment that kept their names; some may be absent.
_SAME = ("model", "dataset", "label_mode", "seed", "val_split", "dtype", "devices")


def experiment(old):
    """The experiment in the settings of a run, as a JSON object. Raises InputError that says what is missing."""
    wrong = json_files.problem({"state": None, **old}, _NEEDED)
    if wrong:
        raise InputError(wrong)
    data, state = old["data"], old.get("state")
    found = {name: old[name] for name in _SAME if name in old}
    # The first ones left out the length of the net's output if it was the usual one.
    arguments = {"classes": {"cifar10": 10, "cifar100": 100}.get(old["dataset"], 1000), **old["arguments"]}
    if old["dataset"] == "imagenet":
        found["input_size"] = old.get("input_size") or data.get("input_size") or INPUT_SIZE
        found["crop_ratio"] = old.get("crop_ratio") or data.get("crop_ratio") or CROP_RATIO
    return {"format": FORMAT, **found, "arguments": arguments, "recipe": old["recipe"],
            "start": old.get("started_from"), "first_epoch": state.get("first_epoch", 0) if state else 0}


def saved(old):
    """What a parameter file of ours says of itself, as a JSON object. Raises InputError as `experiment`."""
    made = {"format": FORMAT, "experiment": experiment(old),
            "data": {"class_names": None, **{name: value for name, value in old["data"].items()
                                             if name not in ("input_size", "crop_ratio")}}}
    made.update({name: old[name] for name in ("operators", "command", "scored_on", "score", "workers") if name in old})
    if old.get("state") is not None:
        state = {name: value for name, value in old["state"].items() if name != "first_epoch"}
        made["state"] = {"resumed": 0, "loss_scale": None, **state}
    return made
