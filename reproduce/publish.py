"""Put a finished run into the repository: its weights, its record and an entry in params/manifest.json."""
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from engine import checkpoint, runlog
from model import complete_arguments, get_model, load_params
from support.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "params" / "manifest.json"
SETTINGS = ("model", "arguments", "dataset", "label_mode", "seed", "recipe", "val_split", "scored_on")


def publish(run, name, data_dir, also=(), remark=None):
    """Publish the last epoch of the run in folder `run` as `name`. Returns a sentence.

    The weights are evaluated again, from the very file that is published, on the data in data_dir, which must give the
    accuracy that the run recorded, and on the folders of `also`. Raises InputError where they disagree, or when
    the run has not ended.
    """
    run = Path(run)
    if not re.fullmatch(r"[a-z0-9_.-]+", name):
        raise InputError(f"--name {name!r}: use small letters, digits, '_', '-' and '.'")
    try:
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{run} is not a finished run: its result.json cannot be read ({error})") from error

    settings = checkpoint.read_settings(run / "last.params")
    del settings["state"]  # of a run that has ended
    settings["arguments"] = result["arguments"] = complete_arguments(settings["model"], settings["arguments"])
    net = load_params(get_model(settings["model"], **settings["arguments"]), run / "last.params")
    file = MANIFEST.parent / f"{name}.params"
    with tempfile.TemporaryDirectory(dir=MANIFEST.parent) as scratch:
        # Without the optimizer's state: half the size, and nobody trains on from here.
        candidate = Path(scratch) / file.name
        checkpoint.save(candidate, net, settings)
        again = score(candidate, data_dir)
        if (again["top1"], again["images"]) != (result["last"]["accuracy"], result["last"]["images"]):
            raise InputError(f"{run} scores {again['top1']} on {data_dir}, but recorded {result['last']['accuracy']}: "
                             "is that the run's data?")
        candidate.replace(file)

    record = ROOT / "results" / "runs" / name
    record.mkdir(parents=True, exist_ok=True)
    for kept in ("args.json", "metrics.jsonl", "result.json", "train.log", "history.png"):
        shutil.copy(run / kept, record / kept)
    runlog.write_json(record / "evaluations.json", [{**again, "label": remark}] + [
        {**score(file, folder), "label": label} for label, folder in also])
    entry = {
        "name": name, "file": file.name, "sha256": again["sha256"], "size": file.stat().st_size,
        **{key: result[key] for key in SETTINGS}, "command": result["command"],
        "data": {**{key: result["data"][key] for key in ("variant", "sha256")}, "label": remark},
        "last": result["last"], "best": result["best"], "git_revision": result["environment"]["git_revision"],
        "record": str(record.relative_to(ROOT)),
        "log_sha256": hashlib.sha256((record / "train.log").read_bytes()).hexdigest(),
    }
    entries = json.loads(MANIFEST.read_text(encoding="utf-8"))["models"] if MANIFEST.exists() else []
    entries = [other for other in entries if other["name"] != name] + [entry]
    runlog.write_json(MANIFEST, {"models": entries})
    return f"{name}: accuracy {again['top1']:.4f} as recorded, {file.relative_to(ROOT)} ({entry['size']:,} bytes)"


def score(file, data_dir):
    """What evaluate.py says of a file on the test images in a folder, as its JSON line."""
    command = [str(ROOT / "evaluate.py"), "--params", str(file), "--data-dir", str(data_dir), "--gpus", ""]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"evaluate.py failed on {file} and {data_dir}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])
