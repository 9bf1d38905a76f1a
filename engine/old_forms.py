"""Converts what was written before there was an Experiment (format 1) to today's form (format 2).

`saved` is for checkpoints and published weights, `result` for the folders of finished runs, `record` for the ledger.
The numbers stay; a missing value becomes what that version did. Every function takes and returns a JSON object and
raises InputError that says what is missing.
"""
from support import json_files
from support.errors import InputError
from support.json_files import COUNT, NOTHING, NUMBER, OBJECT, SHARE, SOME, TEXT

from .experiment import FORMAT
from .recipe import CROP_RATIO, INPUT_SIZE

OLD = 1
_NEEDED = {"model": TEXT, "arguments": OBJECT, "dataset": TEXT, "label_mode": (NOTHING, TEXT), "recipe": OBJECT,
           "seed": COUNT, "data": OBJECT, "state": (NOTHING, OBJECT)}
_BEST = {"epoch": COUNT, "accuracy": SHARE, "top5": SHARE, "loss": NUMBER}
_SCORE = {**_BEST, "images": SOME}
_TEST = {name: kind for name, kind in _SCORE.items() if name != "epoch"}
_IMAGES = {"images": COUNT}
_PROVENANCE = ({"files": [{"name": TEXT, **_IMAGES}]}, {"splits": {"train": _IMAGES, "val": _IMAGES}})
# Fields of an experiment that kept their names; some may be absent.
_SAME = ("model", "dataset", "label_mode", "seed", "val_split", "dtype", "devices")


def experiment(old):
    """The experiment in the settings of a run."""
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
    """What a parameter file of ours says of itself."""
    made = {"format": FORMAT, "experiment": experiment(old),
            "data": {"class_names": None, **{name: value for name, value in old["data"].items()
                                             if name not in ("input_size", "crop_ratio")}}}
    made.update({name: old[name] for name in ("operators", "command", "scored_on", "score", "workers") if name in old})
    if old.get("state") is not None:
        state = {name: value for name, value in old["state"].items() if name != "first_epoch"}
        made["state"] = {"resumed": 0, "loss_scale": None, **state}
    return made


def result(old, args, resumed, gpus):
    """The Result in a finished run's result.json and args.json.

    resumed: how often its log says that it was resumed. gpus: names of this machine's GPUs, for a run on GPUs.
    """
    wrong = json_files.problem(old, {"last": _SCORE, "best": _BEST, "scored_on": TEXT, "environment": OBJECT,
                                     **({} if old.get("scored_on") in ("test", "validation") else
                                        {"test_of_last": _TEST, "test_of_best": _TEST})}) \
        or json_files.problem(args, {"contexts": TEXT, "provenance": _PROVENANCE}, "args.json")
    if wrong:
        raise InputError(wrong)
    scores = {"last": {name: old["last"][name] for name in _SCORE},
              "best": {**{name: old["best"][name] for name in _BEST}, "images": old["last"]["images"]}}
    held_out = None
    if "test_of_last" in old:
        held_out = scores
        scores = {which: {"epoch": score["epoch"], **old[f"test_of_{which}"]} for which, score in held_out.items()}
    return {"format": FORMAT, "experiment": experiment(old), "data": _data(old["data"], args["provenance"]),
            **scores, "held_out": held_out, "chosen_on": old["scored_on"], "seconds": old.get("seconds"),
            "resumed": resumed, "train_images_per_second": old.get("train_images_per_second"),
            "operators": old.get("operators", ""), "command": old.get("command"),
            "environment": {**old["environment"], "contexts": args["contexts"],
                            "gpus": gpus if "gpu" in args["contexts"] else []}}


def record(old):
    """A record of the ledger."""
    wrong = json_files.problem(old, {"hardware": OBJECT, "versions": OBJECT, "last": _SCORE, "best": _BEST})
    if wrong:
        raise InputError(wrong)
    kept = {name: old.get(name) for name in ("id", "files", "last", "chosen_on", "seconds", "resumed", "command",
                                             "train_images_per_second")}
    data = {name: old["data"].get(name) for name in ("variant", "sha256", "official", "files", "train_images",
                                                     "test_images")} if isinstance(old.get("data"), dict) else None
    return {"format": FORMAT, "experiment": experiment(old), **kept, "data": data,
            "best": {**old["best"], "images": old["last"]["images"]}, "operators": "", "held_out": None,
            "environment": {**old["versions"], **old["hardware"], "git_revision": old.get("git_revision")}}


def _data(data, provenance):
    """The data of a Result; a file's name tells its split."""
    made = {name: data.get(name) for name in ("variant", "sha256", "official")}
    if "splits" in provenance:  # of ImageNet
        return {**made, **{f"{split}_images": provenance["splits"][name]["images"]
                           for split, name in (("train", "train"), ("test", "val"))}}
    files = provenance.get("files", [])
    return {**made, "files": files, **{f"{split}_images": sum(
        file["images"] for file in files if file["name"].startswith("test") == (split == "test"))
        for split in ("train", "test")}}
