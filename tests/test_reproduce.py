"""What the repository shows and how it gets there: published weights, README.md, the commands and their scripts."""
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import http_files
import pytest
import tiny

import evaluate
from engine import checkpoint
from engine.data import cifar, in_memory
from model import complete_arguments, get_model
from model.weights import pretrained_file
from reproduce import __main__ as command
from reproduce import batch_statistics, evaluations, grid, ledger, nets, plan, report, runner, weights
from reproduce import publish as publishing
from support import bits
from support.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
MANIFEST = json.loads((ROOT / "params" / "manifest.json").read_text(encoding="utf-8"))["models"]
OURS = [entry for entry in MANIFEST if publishing.is_ours(entry)]
SCRIPTS = {"table3": "run table3", "fig6": "run fig6", "fig7": "run fig7", "fig8": "run fig8", "table4": "table4",
           "download_params": "download", "evaluate": "verify"}


# What ships.

@pytest.mark.parametrize("entry", OURS, ids=lambda entry: entry["name"])
def test_the_manifest_agrees_with_the_files_and_the_ledger(entry):
    file = ROOT / "params" / entry["file"]
    if file.exists() or not entry["urls"]:
        assert ledger.sha256(file) == entry["sha256"] and file.stat().st_size == entry["size"]
        assert file.stat().st_size < 1_000_000 or entry["urls"], "large weights have an address and do not ship"
    first, *_ = evaluations.read(publishing.folder_of(entry))
    assert first["sha256"] == entry["sha256"]
    assert first["top1"] == publishing.record_of(entry).result.last.accuracy


@pytest.mark.parametrize("entry", [entry for entry in MANIFEST if entry not in OURS], ids=lambda entry: entry["name"])
def test_weights_of_others_say_what_was_published_and_do_not_ship(entry):
    assert entry["urls"] and all(url.startswith("https://") for url in entry["urls"])
    assert entry["sha256"] or re.fullmatch("[0-9a-f]{40}", entry["git_blob"])
    assert entry["arguments"] == complete_arguments(entry["model"], entry["arguments"])
    published = entry["published"]
    for place in (published, published["last"]):  # errors are shares of the images that were counted
        for error in (place["top1_error"], place["top5_error"]):
            assert 0 < error < 1 and error == round(round(error * published["images"]) / published["images"], 6)
    assert published["last"]["epoch"] == published["epochs"] - 1 >= published["epoch"]


@pytest.mark.parametrize("entry", [entry for entry in OURS if entry["dataset"] == "cifar10"],
                         ids=lambda entry: entry["name"])
def test_shipped_weights_score_on_the_sample_what_is_recorded(entry):
    known = evaluations.read(publishing.folder_of(entry))
    sample = cifar.load("cifar10", publishing.SAMPLE)
    recorded = [evaluation for evaluation in known
                if evaluation["data_sha256"] == sample.provenance["sha256"]]
    assert recorded, "no evaluation on the sample is recorded"
    net = get_model(entry["model"], pretrained=entry["name"], **entry["arguments"])
    score = tiny.score(net, in_memory.EvalBatches(sample.test, 250), 10)
    assert score.images == 1017 == recorded[0]["images"]
    # Another processor may round an undecided image the other way.
    assert score.top1 == pytest.approx(recorded[0]["top1"], abs=2.5 / 1017)
    assert score.loss == pytest.approx(recorded[0]["loss"], rel=1e-4)


@pytest.mark.parametrize("page", report.PAGES)
def test_the_tables_of_the_pages_are_up_to_date(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert report.render(page, text) == text, "run .venv/bin/python -m reproduce report"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_the_pages_lead_somewhere(page):
    for name in re.findall(r"\]\(((?!https?:)[^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / name).exists(), name


@pytest.mark.slow
def test_batch_statistics_in_place_of_running_ones(tmp_path, monkeypatch):
    """On the sample that ships: the running statistics give the recorded accuracy, those of the batch another."""
    monkeypatch.setattr(batch_statistics, "FILE", tmp_path / "measured.json")
    batch_statistics.measure(publishing.SAMPLE)
    found = {each["name"]: each for each in json.loads((tmp_path / "measured.json").read_text())}
    assert set(found) == {entry["name"] for entry in MANIFEST if entry["dataset"] == "cifar10"}
    for entry in MANIFEST:
        if entry["dataset"] == "cifar10":
            one = found[entry["name"]]
            recorded = evaluations.read(publishing.folder_of(entry))[-1]["top1"]  # on all 1,017 images
            assert one["images"] == 1000 and one["batch"] == 250
            assert abs(one["running"] - recorded) < .02 and .3 < one["of_batch"] != one["running"]
            assert one["name"] in batch_statistics.text()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_commands_of_the_pages_exist():
    readme = "".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "INSTALL.md")  # a trial.py
    named = set(re.findall(r"(?:bash |python )((?:scripts/)?\w+\.(?:sh|py))", readme))
    assert {"scripts/quickstart.sh", "scripts/test.sh", "train_cifar.py", "evaluate.py"} <= named
    assert {f"scripts/{name}.sh" for name in SCRIPTS} <= named
    for name in named:
        assert (ROOT / name).exists(), name
    for words in re.findall(r"evaluate\.py --pretrained ([a-z]\w+)", readme):
        assert words in {entry["name"] for entry in MANIFEST}
    for script, words in re.findall(r"bash scripts/(table3|fig\d)\.sh (--[^#`\n]+)", readme):
        command.parse(["run", script, *words.split()])
        only = re.findall(r"--only (\S+)", words)
        if only and script in grid.EXHIBITS:
            assert grid.select(grid.EXHIBITS[script], only, "--extras" in words)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_hand_their_words_to_python_in_their_own_process(name, tmp_path):
    script = (ROOT / "scripts" / f"{name}.sh").read_text(encoding="utf-8")
    assert f'run_module reproduce {SCRIPTS[name]} "$@"' in script
    fake = tmp_path / "python3"
    fake.write_text('#!/bin/sh\nprintf "%s|" $$ "$@"\n')
    fake.chmod(0o755)
    scripts = tmp_path / "scripts"  # a checkout without .venv, whose Python would be taken instead
    scripts.mkdir()
    for part in (name, "preamble"):
        (scripts / f"{part}.sh").write_bytes((ROOT / "scripts" / f"{part}.sh").read_bytes())
    process = subprocess.Popen(["bash", str(scripts / f"{name}.sh"), "--only", "a b"], stdout=subprocess.PIPE,
                               text=True, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    out, _ = process.communicate()
    assert out.split("|")[:-1] == [str(process.pid), "-m", "reproduce", *SCRIPTS[name].split(), "--only", "a b"]
    assert os.access(ROOT / "scripts" / f"{name}.sh", os.X_OK)


def test_errors_name_the_script_that_was_called():
    for words, status, said in ((["table3.sh", "--epochs", "0"], 2, "table3.sh: argument --epochs: 0 is below 1"),
                                (["download_params.sh", "nothing"], 1, "download_params.sh: there are no weights")):
        done = subprocess.run(["bash", ROOT / "scripts" / words[0], *words[1:]], capture_output=True, text=True)
        assert done.returncode == status and done.stderr.startswith(said) and done.stderr.count("\n") == 1


# Publishing.

def move_to(folder, monkeypatch):
    """Publish into a folder that is not this repository."""
    (folder / "params").mkdir(exist_ok=True)
    monkeypatch.setattr(publishing, "ROOT", folder)
    monkeypatch.setattr(publishing, "MANIFEST", folder / "params" / "manifest.json")
    monkeypatch.setattr(ledger, "RESULTS", folder / "results")
    monkeypatch.setenv("MXNET_HOME", str(folder / "no data"))
    return folder


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return move_to(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A run of one epoch on a few images of the sample, and their folder."""
    folder = tmp_path_factory.mktemp("published")
    sample = cifar.load("cifar10", publishing.SAMPLE)
    data = folder / "data"
    data.mkdir()
    for name, split, count in (("data_batch_1.bin", sample.train, 96), ("test_batch.bin", sample.test, 40)):
        rows = [bytes([label]) + image.tobytes() for label, image in zip(split.labels[:count], split.images[:count])]
        (data / name).write_bytes(b"".join(rows))
    subprocess.run([sys.executable, str(ROOT / "train_cifar.py"), "--model", "resnet20_v2", "--blocks", "1",
                    "--num-epochs", "1", "--batch-size", "32", "--gpus", "", "--data-dir", str(data),
                    "--save-dir", str(folder / "run")], check=True, capture_output=True)
    return folder / "run", data


def manifest_of(repository):
    return json.loads((repository / "params" / "manifest.json").read_text(encoding="utf-8"))["models"]


@pytest.fixture(scope="module")
def published_once(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as monkeypatch:
        move_to(folder, monkeypatch)
        publishing.publish(finished_run[0], None, finished_run[1])
    return folder


@pytest.fixture
def published(published_once, tmp_path, monkeypatch):
    """A repository with the run published, each test's own."""
    shutil.copytree(published_once, tmp_path / "copy", symlinks=True)
    return move_to(tmp_path / "copy", monkeypatch)


def test_publish(published, finished_run, monkeypatch):
    run, data = finished_run
    entry, = manifest_of(published)
    assert entry["name"] == "resnet20_v2_b1_cifar10" and entry["urls"] == []
    file = published / "params" / entry["file"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == entry["sha256"]
    assert entry["arguments"] == {"blocks": 1, "classes": 10, "replaced_sites": None, "replace_from": None,
                                  "act_layers": None, "act_order": None, "replace_act": None}
    assert file.stat().st_size < (run / "last.params").stat().st_size  # without the optimizer's state
    saved = checkpoint.read(file)
    record = ledger.read_record(published / entry["record"])
    assert saved.score["accuracy"] == record.result.last.accuracy and not saved.command and saved.state is None
    assert record.cell is None  # batches of 32 are not the grid's
    assert record.files["last.params"] == ledger.sha256(run / "last.params")
    scores = evaluations.read(publishing.folder_of(entry))
    assert [score["images"] for score in scores] == [40, 1017]  # its own data and the sample
    assert bits.unpacked(record.right, 40).sum() == round(40 * record.result.last.accuracy)
    known = [score for _ in range(2) for score in scores]
    monkeypatch.setattr(publishing, "score", lambda *_: known.pop(0))
    publishing.publish(run, None, data, replace=True)  # does not double
    publishing.publish(run, "another", data)
    assert [entry["name"] for entry in manifest_of(published)] == ["another", "resnet20_v2_b1_cifar10"]


def tree(folder):
    """{path: content} of all files in a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_name_that_is_taken_is_refused_before_anything_is_evaluated(published, finished_run, monkeypatch):
    monkeypatch.setattr(publishing, "score", None)
    entry, = manifest_of(published)
    before = tree(published)
    tiny.one_sentence(call("publish", finished_run[0]), 1, f"the name resnet20_v2_b1_cifar10 is taken, by "
                      f"{entry['record']}; give --name NEW, or --replace to replace it")
    others = authors_entry(b"")
    (published / "params" / "manifest.json").write_text(json.dumps({"models": [others]}))
    with pytest.raises(InputError, match="is taken, by the paper's authors"):
        publishing.publish(finished_run[0], others["name"])
    with pytest.raises(InputError, match="is taken, by a file that the manifest does not list"):
        publishing.publish(finished_run[0])
    (published / "params" / "manifest.json").write_bytes(before[published / "params" / "manifest.json"])
    assert tree(published) == before


def test_publishing_that_fails_leaves_everything_as_it_was(published, finished_run, monkeypatch):
    """Wherever the disk refuses: at each of the files that are written, in turn."""
    run, data = finished_run
    record = ledger.make(run)
    known = evaluations.read(publishing.folder_of(manifest_of(published)[0]))
    monkeypatch.setattr(publishing, "score", lambda file, folder: {
        **known[folder == publishing.SAMPLE], "sha256": ledger.sha256(file)})
    shutil.rmtree(published / "results")
    (published / "params" / "resnet20_v2_b1_cifar10.params").write_bytes(b"another net's")
    before, whole, done, number = tree(published / "params"), os.replace, [], 0

    def replace(source, target, **how):
        done.append(target)
        if len(done) == number:
            raise OSError(28, "No space left on device", target)
        whole(source, target, **how)

    monkeypatch.setattr(os, "replace", replace)
    while True:
        number += 1
        done.clear()
        try:
            publishing.publish(run, None, data, replace=True)
            break
        except InputError as error:
            assert "No space left on device" in str(error)
        assert tree(published / "params") == before, done
        # What has passed and is whole, or nothing.
        kept = [dataclasses.replace(each, right=None) for each in ledger.read(published / "results")]
        assert kept in ([], [record]) and len(tree(published / "results")) == 5 * len(kept), done
        shutil.rmtree(published / "results")
    assert number > 8 and tree(published / "params") != before


def test_publishing_without_data_puts_nothing_into_the_ledger(repository, finished_run):
    tiny.one_sentence(call("publish", finished_run[0], "--data-dir", repository / "nothing"), 1, "nothing")
    assert not tree(repository)


@pytest.mark.parametrize("place", ["params", "results"])
def test_a_folder_that_cannot_be_written_is_said_before_anything_is_evaluated(repository, finished_run, monkeypatch,
                                                                              place):
    monkeypatch.setattr(publishing, "score", None)
    shutil.rmtree(repository / place, ignore_errors=True)
    (repository / place).write_bytes(b"")  # for root, too
    tiny.one_sentence(call("publish", finished_run[0]), 1, f"{repository / place}", "cannot be written")


def test_publish_refuses(repository, finished_run, tmp_path):
    run, data = finished_run
    for name in ("../trial", ".hidden", "Trial"):
        with pytest.raises(InputError, match="small letters"):
            publishing.publish(run, name, data)
    with pytest.raises(InputError, match="name the folder of a finished run"):
        publishing.publish(tmp_path, "trial", data)
    with pytest.raises(InputError, match="give the run's own data with --data-dir"):
        publishing.publish(run, "trial", publishing.SAMPLE)
    other = tmp_path / "other"
    other.mkdir()
    for file in run.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "last.params").write_bytes((run / "best.params").read_bytes()[:-1])
    with pytest.raises(InputError, match="last.params is not a usable parameter file"):
        publishing.publish(other, "trial", data)
    (other / "last.params").unlink()
    with pytest.raises(InputError, match="last.params does not have the checksum in the ledger"):
        publishing.publish(other, "trial", data)
    assert not tree(repository / "params") and not tree(repository / "results")
    (other / "last.params").write_bytes((run / "best.params").read_bytes()[:-1])
    ledger.add(run, ledger.RESULTS)
    with pytest.raises(InputError, match="last.params does not have the checksum in the ledger"):
        publishing.publish(other, "trial", data)


def test_the_name_says_net_and_data():
    run = tiny.experiment("atac_resnet20_v2", arguments={"blocks": 2, "replaced_sites": 5}, dataset="cifar100",
                          label_mode="fine")
    assert publishing.default_name(SimpleNamespace(experiment=run)) == "atac_resnet20_v2_b2_k5_cifar100_fine"


# The zoo.

def test_names_choose_among_the_weights_that_fit(published):
    root = published / "params"
    entry, = manifest_of(published)
    entries = [{**entry, "name": name, "label_mode": name} for name in ("coarse", "fine")]
    (root / "manifest.json").write_text(json.dumps({"models": entries}))
    with pytest.raises(InputError, match="several weights fit resnet20_v2 with .* one of coarse, fine"):
        get_model("resnet20_v2", pretrained=True, blocks=1, root=root)
    get_model("resnet20_v2", pretrained="fine", blocks=1, root=root)
    with pytest.raises(InputError, match="no pretrained weights called 'finest' .did you mean fine"):
        get_model("resnet20_v2", pretrained="finest", blocks=1, root=root)
    assert pretrained_file("coarse", root) == root / entry["file"]
    with pytest.raises(InputError, match="no pretrained weights called 'x'; .* has: coarse, fine"):
        pretrained_file("x", root)
    large = {**entry, "urls": ["https://example.org"], "sha256": "0" * 64}
    (root / "manifest.json").write_text(json.dumps({"models": [large]}))
    with pytest.raises(InputError, match="fetch it with scripts/download_params.sh resnet20_v2_b1_cifar10"):
        get_model("resnet20_v2", pretrained=True, blocks=1, root=root)


def test_evaluate_takes_a_name_of_the_manifest(finished_run):
    name = MANIFEST[0]["name"]
    result = tiny.call(evaluate.main, "--pretrained", name, "--gpus", "", "--json", "--data-dir",
                       finished_run[1])
    assert result.status == 0, result.err
    line = json.loads(result.out)
    assert line["sha256"] == MANIFEST[0]["sha256"] and line["images"] == 40
    tiny.one_sentence(tiny.call(evaluate.main, "--pretrained", "nothing"), 1, "no pretrained weights called 'nothing'")
    tiny.one_sentence(tiny.call(evaluate.main, "--pretrained", name, "--params", "x"), 2,
                      "one of these is required: --params or --pretrained")
    tiny.one_sentence(tiny.call(evaluate.main), 2, "one of these is required: --params or --pretrained")


def test_verify(published, finished_run, capsys, monkeypatch):
    entry, = manifest_of(published)
    data = str(finished_run[1])
    assert weights.verify(data) == 0
    assert "accuracy" in capsys.readouterr().out
    place = published / entry["record"] / evaluations.FILE
    known = json.loads(place.read_text())
    again = {**known[0], "top1": known[0]["top1"] + .1}
    with monkeypatch.context() as other:
        other.setattr(publishing, "score", lambda *_: again)
        assert weights.verify(data) == 1
    assert "FAILED: accuracy" in capsys.readouterr().out
    place.write_text(json.dumps([{**evaluation, "data_sha256": "0"} for evaluation in known]))
    assert weights.verify() == 0  # nothing in the usual place, and the sample is not what is recorded
    assert "0 evaluated, 1 checked by checksum only, 0 differ" in capsys.readouterr().out
    (published / "params" / entry["file"]).write_bytes(b"?")
    assert weights.verify() == 1
    assert "is damaged; restore it" in capsys.readouterr().out


@pytest.mark.parametrize("changes, said", [
    ({"model": "nin_resnet20_v2"}, "model is nin_resnet20_v2 and not resnet20_v2"),
    ({"arguments": {"blocks": 3}}, "arguments.blocks is 3 and not 1"),
    ({"label_mode": "fine"}, "label_mode is fine and not None"),
    ({"evaluation": {"top1": .99}}, "top1 is 0.99 and not "), ({"evaluation": {"sha256": "0"}}, "sha256 is 0 and not"),
    ({"record": {"best": {"accuracy": .99}}}, "best.accuracy is 0.99 and not ")])
def test_an_entry_that_its_record_contradicts_is_neither_verified_nor_shown(published, capsys, changes, said):
    entry, = manifest_of(published)
    path = published / "params" / "manifest.json"
    content = {"models": [entry]}
    target = entry
    for name, file in (("record", ledger.RECORD), ("evaluation", evaluations.FILE)):
        if isinstance(changes.get(name), dict):
            path = published / entry["record"] / file
            content = json.loads(path.read_text())
            target, changes = content if name == "record" else content[0], changes[name]
    for name, value in changes.items():
        target[name] = {**target[name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(content))
    assert weights.verify() == 1
    assert said in capsys.readouterr().out
    with pytest.raises(InputError, match="restore the"):
        nets.params_table()


def test_download(published, capsys):
    root = published / "params"
    entry, = manifest_of(published)
    content = (root / entry["file"]).read_bytes()
    (root / entry["file"]).unlink()
    with http_files.serve(content) as site:
        listed = {**entry, "file": "file", "urls": [f"{site.root}/gone", site.url]}
        (root / "manifest.json").write_text(json.dumps({"models": [listed]}))
        assert "missing" in weights.table()
        weights.download("all")  # the second address has it
        assert (root / "file").read_bytes() == content and "here" in weights.table()
        asked = len(site.requests)
        weights.download(entry["name"])  # there already
        assert len(site.requests) == asked
        (root / "file").write_bytes(b"damaged")
        weights.download("all", mirror=site.root)
        assert (root / "file").read_bytes() == content
        site.content = content[::-1]
        (root / "file").unlink()
        with pytest.raises(InputError, match="holds other bytes than expected"):
            weights.download("all")
        assert not list(root.glob("file*"))  # neither the file nor a half one
    with pytest.raises(InputError, match="no weights called 'x'; known names: resnet20_v2_b1_cifar10"):
        weights.download("x")
    (root / "manifest.json").write_text(json.dumps({"models": [{**listed, "urls": []}]}))
    with pytest.raises(InputError, match="ships with the repository and has no address"):
        weights.download("all")


def authors_entry(content, **changes):
    """An entry as that of the authors' file, of this content."""
    entry, = [entry for entry in MANIFEST if entry["name"] == "atac_resnet50_v1b_official"]
    return {**entry, "git_blob": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), **changes}


def test_download_of_a_file_that_only_its_git_blob_describes(repository, tmp_path, capsys):
    content, root = bytes(range(256)) * 100, repository / "params"
    original, here = "0.2141-imagenet-ResNet50_v1b_ChaATAC-155-best.params", "atac_resnet50_v1b_official.params"
    (tmp_path / "mirror").mkdir()
    mirror = tmp_path / "mirror" / original
    mirror.write_bytes(content)
    with http_files.serve(content) as site:
        (root / "manifest.json").write_text(json.dumps({"models": [authors_entry(content, urls=[site.url])]}))
        assert "size not published, missing; for imagenet" in weights.table()
        assert weights.verify() == 0 and "not fetched" in capsys.readouterr().out
        weights.download("atac_resnet50_v1b_official")
        assert (root / here).read_bytes() == content and f"{len(content):,} bytes" in capsys.readouterr().out
    (root / "manifest.json").write_text(json.dumps({"models": [authors_entry(content)]}))
    assert weights.verify() == 0
    assert "0 evaluated, 1 checked by checksum only, 0 differ\n" in capsys.readouterr().out
    for place in (mirror, mirror.as_uri(), mirror.parent, f"{mirror.parent.as_uri()}/"):  # the file, or its folder
        (root / here).unlink()
        weights.download("all", mirror=str(place))
        assert (root / here).read_bytes() == content
    mirror.rename(mirror.with_name(here))
    (root / here).write_bytes(b"damaged")
    assert weights.verify() == 1
    weights.download("all", mirror=str(mirror.parent))
    assert pretrained_file("atac_resnet50_v1b_official", root).read_bytes() == content
    (root / here).unlink()
    mirror.with_name(here).write_bytes(content[::-1])
    with pytest.raises(InputError, match=r"holds other bytes than expected \(git blob \w{40} instead of \w{40}\)"):
        weights.download("all", mirror=str(mirror.parent))
    assert [path.name for path in root.iterdir()] == ["manifest.json"]
    with pytest.raises(InputError, match="official.params': No such file or directory"):
        weights.download("all", mirror=str(tmp_path / "nothing"))


@pytest.mark.parametrize("changes, said", [
    ({"record": "../elsewhere"}, "record is not a folder below results/"), ({"record": ""}, "record is not a folder"),
    ({"record": "results/../../elsewhere"}, "record is not a folder below results/"),
    ({"record": "/results/x"}, "record is not a folder below results/"), ({"size": "3"}, "size is not"),
    ({"label_mode": 1}, "label_mode is not"), ({"arguments": []}, "arguments is not an object"),
    ({"file": "../x.params"}, "file is not the name of a file without a folder"), ({"name": None}, "name is not text"),
    ({"urls": ["https://x/\n"]}, r"urls\[0\] is not text on one line"), ({"dataset": None}, "dataset is not text")])
def test_a_manifest_that_is_none_is_one_sentence(repository, changes, said):
    entry, = [entry for entry in MANIFEST if "record" in entry and entry["name"] == "atac_resnet20_v2_b1_cifar10"]
    path = repository / "params" / "manifest.json"
    path.write_text(json.dumps({"models": [{**entry, **changes}]}))
    for call in (weights.table, weights.verify, lambda: weights.download("all")):
        with pytest.raises(InputError, match=rf"manifest.json cannot be used: models\[0\].{said}.*; restore it"):
            call()
    path.write_text(json.dumps({"models": [entry]}))
    with pytest.raises(InputError, match="evaluations.json cannot be used: No such file or directory; restore it"):
        evaluations.read(publishing.folder_of(entry))


def test_a_manifests_own_addresses_are_encrypted(repository):
    (repository / "params" / "manifest.json").write_text(json.dumps({"models": [
        authors_entry(b"x", urls=["http://192.0.2.1/x"])]}))
    with pytest.raises(InputError, match="use its https:// address"):
        weights.download("all")
    with pytest.raises(InputError, match="write the path in full"):
        weights.download("all", mirror="~nobody-of-this-name/x")


def test_others_weights_stay_in_the_manifest_when_a_run_is_published(published, finished_run, monkeypatch):
    run, data = finished_run
    root = published / "params"
    entry, = manifest_of(published)
    (root / "manifest.json").write_text(json.dumps({"models": [authors_entry(b""), entry]}))
    known = evaluations.read(publishing.folder_of(entry))
    monkeypatch.setattr(publishing, "score", lambda *_: known.pop(0))
    publishing.publish(run, None, data, replace=True)
    assert [other["name"] for other in manifest_of(published)] == ["atac_resnet50_v1b_official", entry["name"]]
    row = nets.params_table().splitlines()[2]
    assert "atac_resnet50_v1b_official, by the paper's authors" in row and "0.7859 (epoch 155" in row


# The command line.

def call(*words):
    return tiny.call(command.main, *words)


def test_dry_run_trains_nothing(monkeypatch, tmp_path):
    monkeypatch.delattr(runner.Grid, "train")
    monkeypatch.setattr(plan, "usable_cores", lambda: 2)
    data = tiny.cifar10(tmp_path / "data")
    result = call("run", "fig6", "--dry-run", "--only", "cifar10/stagewise/b1", "--epochs", "20", "--seeds", "2",
                  "--gpus", "", "--data-dir", data, "--runs", tmp_path / "runs")
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert sum(": to run, about " in line for line in lines) == 10
    assert "10 runs: 0 finished, 10 to do, 2 at a time on the CPU" in lines
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words, status, said", [
    (["run", "table3", "--only", "gelu"], 1, "table3 has no 'gelu'"),
    (["run", "fig7", "--only", "gelu"], 1, "add --extras"),
    (["run", "table5"], 2, "invalid choice: 'table5'"),
    (["run", "table3", "--only", "/"], 2, "is not a filter such as"),
    (["run", "table3", "--epochs", "0"], 2, "0 is below 1"),
    (["table4", "--only", "x"], 2, "unrecognized arguments"),
    (["publish", "nothing"], 1, "name the folder of a finished run"),
    (["download", "nothing"], 1, "no weights called 'nothing'"),
    ([], 2, "required")])
def test_a_wrong_command_is_one_sentence(words, status, said):
    tiny.one_sentence(call(*words), status, said)


def test_table4_says_what_it_cannot_do():
    result = call("table4")
    assert result.status == 0 and "train_imagenet.py trains these nets" in result.err
    assert ("| ATAC-ResNet-50 | 28.0M | 28.006M | 27.935M | total | 4.4 | 4.089G | 4.397G | 8.795G | v1b MACs | "
            "21.41 | 6.02 | not run |") in result.out
    assert "On one host ATAC costs +0.308 GMACs (+7.5%)." in result.out


def test_missing_data_are_one_sentence_and_no_table(tmp_path):
    result = call("run", "table3", "--gpus", "", "--data-dir", tmp_path / "none", "--mirror", "file:///none", "--runs",
                  tmp_path / "runs", "--results", tmp_path / "results")
    tiny.one_sentence(result, 1, f"--data-dir {tmp_path / 'none'}: that folder does not exist; name the folder")
    assert "CIFAR-10 could not be downloaded" in result.err
    assert result.out == "" and result.err.count("\n") == 1


def test_a_failed_run_is_the_exit_status(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "command_of", lambda *_: ["train_cifar.py", "--model", "nonsense"])
    data = tiny.cifar10(tmp_path / "data")
    result = call("run", "table3", "--only", "cifar10/relu/b1", "--epochs", "1", "--gpus", "", "--data-dir", data,
                  "--runs", tmp_path / "runs", "--results", tmp_path / "results")
    line = tiny.one_sentence(result, 1, "cifar10-b1-relu, seed 0 failed", "unknown model 'nonsense'")
    assert line.startswith("reproduce: ") and result.out == ""
    assert "FAILED" in (tmp_path / "runs" / "table3.log").read_text()
