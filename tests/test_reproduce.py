"""What the repository shows: published weights, their records, and the tables of README.md."""
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import pytest

from engine import checkpoint, cifar, loop
from model import get_model
from reproduce import __main__ as command
from reproduce import publish as publishing
from reproduce import report
from support.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = json.loads((ROOT / "params" / "manifest.json").read_text(encoding="utf-8"))["models"]


@pytest.mark.parametrize("entry", MANIFEST, ids=lambda entry: entry["name"])
def test_shipped_weights_are_those_of_the_manifest(entry):
    content = (ROOT / "params" / entry["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"] and len(content) == entry["size"] < 1_000_000
    record = ROOT / entry["record"]
    assert hashlib.sha256((record / "train.log").read_bytes()).hexdigest() == entry["log_sha256"]
    result = json.loads((record / "result.json").read_text(encoding="utf-8"))
    metrics = [json.loads(line) for line in (record / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(metrics) == entry["recipe"]["epochs"] == result["epochs"]
    assert metrics[-1]["val_accuracy"] == entry["last"]["accuracy"]
    assert max(line["val_accuracy"] for line in metrics) == entry["best"]["accuracy"]
    assert (record / "history.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("entry", MANIFEST, ids=lambda entry: entry["name"])
def test_shipped_weights_score_on_the_sample_what_is_recorded(entry):
    evaluations = json.loads((ROOT / entry["record"] / "evaluations.json").read_text(encoding="utf-8"))
    sample = cifar.load("cifar10", ROOT / "data" / "cifar10-sample")
    recorded = [evaluation for evaluation in evaluations
                if evaluation["data_sha256"] == sample.provenance["sha256"]]
    assert recorded, "no evaluation on the sample is recorded"
    net = get_model(entry["model"], pretrained=True, **entry["arguments"])
    score = loop.evaluate(net, cifar.EvalBatches(sample.test, 250), [mx.cpu()], 10)
    assert score.images == 1017 == recorded[0]["images"]
    # Another processor may round an undecided image the other way.
    assert score.top1 == pytest.approx(recorded[0]["top1"], abs=2.5 / 1017)
    assert score.loss == pytest.approx(recorded[0]["loss"], rel=1e-4)


def test_the_tables_of_the_readme_are_up_to_date():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert report.render(readme) == readme, "run .venv/bin/python -m reproduce report"


def test_render_names_a_table_without_a_place():
    with pytest.raises(InputError, match="nets"):
        report.render("no tables here")


def test_the_commands_of_the_readme_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:bash |python )((?:scripts/)?\w+\.(?:sh|py))", readme))
    assert {"scripts/quickstart.sh", "scripts/test.sh", "train_cifar.py", "evaluate.py"} <= named
    for name in named | set(re.findall(r"\]\(((?!https?:)[^)#]+)\)", readme)):
        assert (ROOT / name).exists(), name


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A place to publish to that is not this repository."""
    (tmp_path / "params").mkdir()
    (tmp_path / "evaluate.py").symlink_to(ROOT / "evaluate.py")
    monkeypatch.setattr(publishing, "ROOT", tmp_path)
    monkeypatch.setattr(publishing, "MANIFEST", tmp_path / "params" / "manifest.json")
    return tmp_path


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A run of one epoch on a few images of the sample, and their folder."""
    folder = tmp_path_factory.mktemp("published")
    sample = cifar.load("cifar10", ROOT / "data" / "cifar10-sample")
    data = folder / "data"
    data.mkdir()
    for name, split, count in (("data_batch_1.bin", sample.train, 96), ("test_batch.bin", sample.test, 40)):
        rows = [bytes([label]) + image.tobytes() for label, image in zip(split.labels[:count], split.images[:count])]
        (data / name).write_bytes(b"".join(rows))
    subprocess.run([sys.executable, str(ROOT / "train_cifar.py"), "--model", "resnet20_v2", "--blocks", "1",
                    "--num-epochs", "1", "--batch-size", "32", "--gpus", "", "--data-dir", str(data),
                    "--save-dir", str(folder / "run")], check=True, capture_output=True)
    return folder / "run", data


def test_publish(repository, finished_run):
    run, data = finished_run
    publishing.publish(run, "trial", data, also=[("the same", data)], remark="few images")
    entry, = json.loads((repository / "params" / "manifest.json").read_text())["models"]
    file = repository / "params" / entry["file"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == entry["sha256"]
    assert entry["arguments"] == {"blocks": 1, "classes": 10, "replaced_sites": None, "replace_from": None,
                                  "act_layers": None, "act_order": None, "replace_act": None}
    assert file.stat().st_size < (run / "last.params").stat().st_size  # without the optimizer's state
    assert checkpoint.read_settings(file)["score"]["accuracy"] == entry["last"]["accuracy"]
    evaluations = json.loads((repository / entry["record"] / "evaluations.json").read_text())
    assert [evaluation["label"] for evaluation in evaluations] == ["few images", "the same"]
    publishing.publish(run, "trial", data)  # replaces, does not double
    assert len(json.loads((repository / "params" / "manifest.json").read_text())["models"]) == 1


def test_publish_refuses(repository, finished_run, tmp_path):
    run, data = finished_run
    with pytest.raises(InputError, match="small letters"):
        publishing.publish(run, "../trial", data)
    with pytest.raises(InputError, match="not a finished run"):
        publishing.publish(tmp_path, "trial", data)
    with pytest.raises(InputError, match="is that the run's data"):
        publishing.publish(run, "trial", ROOT / "data" / "cifar10-sample")
    assert not (repository / "params" / "manifest.json").exists()
    with pytest.raises(SystemExit):
        command.parse(["publish", str(run), "--name", "x", "--data-dir", "d", "--also", "no label"])
