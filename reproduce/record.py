"""A record of the ledger: the Result of a finished run, and the checksums of the files that prove it."""
import dataclasses
import hashlib
import json
from typing import Optional

from engine import old_forms
from engine.experiment import Result
from model import complete_arguments
from support import json_files
from support.errors import InputError
from support.json_files import SHA256, TEXT

from . import grid

EVIDENCE = ("metrics.jsonl", "train.log")  # in the record's folder
FILES = {TEXT: SHA256}


@dataclasses.dataclass(frozen=True)
class Record:
    """The ledger's record of a run.

    files: {name: SHA-256}, of the evidence in its folder and of the run's weights. right: which test images were right
    after the last epoch, as text (support.bits); None unless the run was published, and in old evaluations.
    """

    result: Result
    files: dict
    right: Optional[str] = None

    @property
    def experiment(self):
        return self.result.experiment

    @property
    def cell(self):
        """The run's cell in the grid; None for another net, recipe, global batch or start."""
        return grid.cell_of(self.experiment)

    @property
    def smoke(self):
        """Whether the run saw too few training images to mean anything; the report leaves such runs out."""
        return self.result.data["train_images"] < grid.WHOLE

    @property
    def epochs(self):
        return self.experiment.recipe.epochs

    @property
    def id(self):
        """The record's name. The names of runs outside the grid have a digest of all their settings."""
        run, data = self.experiment, self.result.data["sha256"]
        held = f"-v{run.val_split}" if run.val_split else ""
        if self.cell is not None:
            return grid.name(run, data) + held
        decides = {"arguments": run.net, "recipe": run.as_json()["recipe"], "devices": run.devices,
                   "started_from": run.start}
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]
        return f"{run.data_name}-{run.model}-{digest}_e{self.epochs}_s{run.seed}_{data[:8]}{held}"

    def as_json(self):
        """An object for JSON."""
        return {**self.result.as_json(), "id": self.id, "files": self.files}

    @classmethod
    def from_json(cls, value):
        """The Record of `as_json`'s value, or of an earlier version's. InputError says what is wrong."""
        if isinstance(value, dict) and value.get("format") == old_forms.OLD:
            value = old_forms.record(value)
        wrong = json_files.problem(value, {"id": TEXT, "files": dict.fromkeys(EVIDENCE, SHA256)}) \
            or json_files.problem(value["files"], FILES, "files")
        if wrong:
            raise InputError(wrong)
        result = {name: each for name, each in value.items() if name not in ("id", "files")}
        record = cls(completed(Result.from_json(result)), value["files"])
        if record.id != value["id"]:
            raise InputError(f"its id is {value['id']}, but its content makes {record.id}")
        return record


def completed(result):
    """A Result with all arguments of its net; InputError for an argument that the net does not have."""
    run = result.experiment
    try:
        arguments = complete_arguments(run.model, run.net)
    except TypeError as error:
        raise InputError(str(error)) from None
    if "blocks" in arguments and not (isinstance(arguments["blocks"], int) and arguments["blocks"] >= 1):
        raise InputError(f"arguments.blocks cannot be {arguments['blocks']!r}")
    return dataclasses.replace(result, experiment=dataclasses.replace(run, arguments=arguments))
