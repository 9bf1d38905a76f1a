"""The ImageNet scripts from end to end on a sample: prepare, train, stop and resume, overfit, evaluate.

`python -m reproduce rehearse SAMPLE` runs the commands one after the other. SAMPLE has one folder of images per class.
It writes rehearsal.json and the logs to results/imagenet-sample/; the report renders the tables in docs/IMAGENET.md.
The results do not show how good a net is.
"""
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engine import runlog
from support import ROOT, json_files, params_file
from support.errors import InputError
from support.files import write_whole
from support.tables import table

RESULTS = ROOT / "results" / "imagenet-sample"
RECORD = RESULTS / "rehearsal.json"

FEW = 32  # classes, and images, of the trainings
CPU = ["--gpus", "", "--data-dir", "few", "--seed", "0"]
STEPS = ["train_imagenet.py", *CPU, "--batch-size", "4", "--num-epochs", "2", "--warmup-epochs", "0", "--lr", "0.01",
         "--log-interval", "1"]
PART = ["train_imagenet.py", "--gpus", "", "--use-rec", "--data-dir", "data", "--batch-size", "8", "--num-epochs", "1",
        "--warmup-epochs", "0", "--lr", "0.01", "--log-interval", "1", "--save-dir", "part"]
OVERFIT = ["train_imagenet.py", *CPU, "--input-size", "64", "--batch-size", "16", "--num-epochs", "60",
           "--warmup-epochs", "5", "--lr", "0.02", "--save-dir", "overfit"]


class Rehearsal:
    """One rehearsal in a working folder; commands run there and are recorded as a reader would type them."""

    def __init__(self, work, sample):
        self.work, self.sample, self.steps = work, sample, []

    def run(self, what, command, log=None, stop_at=None, status=0):
        """Run a command and record it with its time. stop_at: a line of its output at which it gets SIGTERM."""
        program = ["bash"] if command[0].endswith(".sh") else [sys.executable]
        begun, lines = time.monotonic(), []
        # So that the scripts find this Python.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen([*program, str(ROOT / command[0]), *command[1:]], cwd=self.work, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        with process.stdout:
            for line in process.stdout:
                for place, name in ((self.sample, "SAMPLE"), (self.work, "WORK"), (ROOT, "REPOSITORY")):
                    line = line.replace(str(place), name)
                lines.append(line)
                if stop_at and re.search(stop_at, line):
                    process.send_signal(signal.SIGTERM)
                    stop_at = None
        if process.wait() != status:
            raise InputError(f"rehearsal: {shlex.join(command)} ended with status {process.returncode}, not {status}: "
                             f"{''.join(lines[-3:]).strip()}")
        print(f"{what}: {time.monotonic() - begun:.0f} s", flush=True)
        shown = shlex.join("SAMPLE" if word == str(self.sample) else word for word in command)
        self.steps.append({"what": what, "command": shown, "seconds": round(time.monotonic() - begun, 1)})
        if log is not None:
            write_whole(log, "".join(lines))

    def score(self, run, size, data, *flags):
        """evaluate.py's scores of a run's last checkpoint."""
        self.run("evaluate", ["evaluate.py", "--params", f"{run}/last.params", "--data-dir", data, *flags, "--json",
                              "score.json"])
        answer = json.loads((self.work / "score.json").read_text(encoding="utf-8"))
        return {"params": run, "source": "record file" if flags else "folders", "size": size,
                **{key: answer[key] for key in ("images", "top1", "top5", "loss")}}

    def metrics(self, folder):
        """The records of a run's epochs, without the times."""
        return [{key: value for key, value in record.items() if "second" not in key}
                for record in runlog.read_metrics(self.work / folder / "metrics.jsonl")]

    def weights(self, folder):
        """All arrays of a run's last checkpoint as bytes, including the optimizer's."""
        arrays, attachments = params_file.read(self.work / folder / "last.params")
        found = {name: array.tobytes() for name, array in arrays.items()}
        found.update({name: content for name, content in attachments.items() if name.startswith("optimizer/")})
        return found


def rehearse(sample):
    """Run everything and write RESULTS. Raises InputError at the first command that does not end as expected."""
    sample = Path(sample).resolve()
    classes = sorted(path for path in sample.iterdir() if path.is_dir()) if sample.is_dir() else []
    if len(classes) < FEW:
        raise InputError(f"{sample} has {len(classes)} class folders, but {FEW} are needed; give a folder with one "
                         "folder of images per class")
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        for split in ("train", "val"):
            for each in classes[:FEW]:
                shutil.copytree(each, work / "few" / split / each.name)
        record = _rehearse(Rehearsal(work, sample))
    json_files.write(RECORD, {"environment": runlog.environment(), **record})


def _rehearse(job):
    prepare = ["scripts/prepare_imagenet.sh", "--data-dir"]
    sample = str(job.sample)
    job.run("prepare", [*prepare, "data", "--train", sample, "--val", sample], RESULTS / "prepare.log")
    job.run("train at 224 x 224 from the record file, stopped by SIGTERM after 20 steps", PART,
            RESULTS / "train-224.log", stop_at=r"Epoch\[0\] Batch \[20\]", status=128 + signal.SIGTERM)
    scores = [job.score("part", 224, sample), job.score("part", 224, "data", "--use-rec")]

    job.run("train on few images at 224 x 224", [*STEPS, "--save-dir", "whole"])
    job.run("the same, stopped by SIGTERM in the middle of an epoch", [*STEPS, "--save-dir", "stopped"],
            stop_at=r"Epoch\[0\] Batch \[3\]", status=128 + signal.SIGTERM)
    job.run("and resumed", [*STEPS, "--resume", "stopped"])
    whole, resumed = job.weights("whole"), job.weights("stopped")
    resume = {"arrays": len(whole), "equal": sum(resumed.get(name) == bits for name, bits in whole.items()),
              "metrics_equal": job.metrics("whole") == job.metrics("stopped")}

    job.run("overfit them at 64 x 64", OVERFIT, RESULTS / "overfit.log")
    job.run("prepare them", [*prepare, "few"])
    scores += [job.score("overfit", 64, "few"), job.score("overfit", 64, "few", "--use-rec")]
    return {"steps": job.steps, "resume": resume, "scores": scores,
            "overfit": [{key: line[key] for key in ("epoch", "train_accuracy", "val_accuracy", "val_loss")}
                        for line in job.metrics("overfit")]}


# ---- The tables of docs/IMAGENET.md


def read():
    """The record of the last rehearsal."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def commands_table(record):
    machine = record["environment"]
    return table("| what | command | seconds |", [
        [step["what"], f"`{step['command']}`", f"{step['seconds']:.0f}"] for step in record["steps"]]) + (
        f"\n\nThe times are on {machine['processor']}, {machine['threads']} thread(s), with other programs running. "
        f"`few` has {FEW} of the classes, with the same images for training and validation.")


def findings(record):
    resume, curve = record["resume"], record["overfit"]

    def course(name, digits):
        return f"from {curve[0][name]:.{digits}f} to {curve[-1][name]:.{digits}f}"

    lines = [f"- **Resumed to the bit**: {resume['equal']} of {resume['arrays']} arrays (weights and optimizer) are "
             "equal between the run that was stopped within an epoch and the undisturbed run. Their records of the "
             f"epochs {'are the same' if resume['metrics_equal'] else 'DIFFER'}.",
             f"- **It learns**: over {len(curve)} epochs of {FEW} images, the accuracy on the augmented images goes "
             f"{course('train_accuracy', 3)}. On the images as in evaluation it goes {course('val_accuracy', 3)}, and "
             f"the cross entropy {course('val_loss', 2)}.",
             "- **Both sources agree**:", "",
             table("| net | images | source | top-1 accuracy | top-5 accuracy | cross entropy |", [
                 [f"{score['params']}, {score['size']} x {score['size']}", f"{score['images']:,}", score["source"],
                  f"{score['top1']:.4f}", f"{score['top5']:.4f}", f"{score['loss']:.6f}"]
                 for score in record["scores"]])]
    return "\n".join(lines)
