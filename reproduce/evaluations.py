"""evaluations.json, beside the record of a published run: the scores of its file, and which test images were right."""
from pathlib import Path

from support import bits, json_files
from support.errors import InputError
from support.json_files import SHARE, SOME, TEXT

FILE = "evaluations.json"
SHAPE = {"data_sha256": TEXT, "data": TEXT, "images": SOME, "top1": SHARE}  # of one; earlier ones have no `right`
RESTORE = "restore it from the repository"


def read(folder):
    """The scores of the published file of the run in a ledger's folder, on each data it was scored on. InputError."""
    return json_files.read(Path(folder) / FILE, [SHAPE], RESTORE)


def right_of(folder, result):
    """Which test images the run of this Result had right after its last epoch, as text (support.bits).

    None if no evaluation kept them. InputError if they do not fit the Result.
    """
    path = Path(folder) / FILE
    for found in read(folder) if path.exists() else ():
        if found["data_sha256"] == result.data["sha256"] and "right" in found:
            wrong = json_files.problem(found["right"], TEXT, "right")
            if wrong is None:
                try:
                    count = int(bits.unpacked(found["right"], result.last.images).sum())
                    expected = round(result.last.accuracy * result.last.images)
                    wrong = None if count == expected else f"right has {count:,} images, and the record {expected:,}"
                except InputError as error:
                    wrong = f"right cannot be read: {error}"
            if wrong:
                raise InputError(f"{path} cannot be used: {wrong}; {RESTORE}")
            return found["right"]
    return None
