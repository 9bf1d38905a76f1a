"""Records as scores, answers, tables and figures: nothing short, foreign or tiny may pass for the paper's result."""
import copy
import dataclasses
import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
from PIL import Image

from engine import runlog
from reproduce import blocks, figures, grid, ledger, report, scores
from support.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ledger.read()
TASK = grid.CIFAR10


def record(cell, last, seed=0, epochs=400, data="official", images=50_000, **changes):
    """A record of the ledger as a run of that cell would leave it; last: accuracy of its last epoch.

    changes: of the Experiment's fields.
    """
    experiment = dataclasses.replace(grid.run(cell, epochs, seed), **changes)
    own = RECORDS[0].result
    result = dataclasses.replace(
        own, experiment=experiment, last=dataclasses.replace(own.last, accuracy=last, epoch=epochs - 1),
        best=dataclasses.replace(own.best, accuracy=last + .001),
        data={"variant": "official" if data == "official" else "other files", "sha256": {
            "official": "0f", "jpeg": "ab"}[data] * 32, "official": data == "official", "files": [],
            "train_images": images, "test_images": 10_000})
    return dataclasses.replace(RECORDS[0], result=result, right=None)


def cell(unit, blocks=1, task=TASK):
    return grid.cell(task, unit, blocks)


OWN = next(run for run in RECORDS if run.cell == cell("atac"))


# What ships.

def test_every_record_is_sound():
    assert RECORDS
    for run in RECORDS:
        folder = ledger.folder_of(run.id)
        for name in ledger.EVIDENCE:
            assert ledger.sha256(folder / name) == run.files[name]
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        assert len(metrics) == run.epochs and run.cell is not None
        assert json.loads((folder / ledger.RECORD).read_text(encoding="utf-8")) == run.as_json()
        if run.result.chosen_on == "test":
            assert metrics[-1]["val_accuracy"] == run.result.last.accuracy
            assert max(line["val_accuracy"] for line in metrics) == run.result.best.accuracy


def test_the_report_is_up_to_date():
    page = (ledger.RESULTS / report.PAGE).read_text(encoding="utf-8")
    assert page == report.page(RECORDS), "run .venv/bin/python -m reproduce report"
    wanted = report.figures_of(RECORDS)
    assert {path.name for path in (ledger.RESULTS / "figures").glob("*.png")} == set(wanted)
    for name, numbers in wanted.items():
        assert figures.shown(ledger.RESULTS / "figures" / name) == figures.digest(numbers), name


def test_links_of_the_report_lead_somewhere():
    text = (ledger.RESULTS / report.PAGE).read_text(encoding="utf-8")
    links = {part.split(")")[0] for part in text.split("](")[1:]} | set(re.findall('<img src="([^"]+)"', text))
    assert links and all((ledger.RESULTS / link).exists() for link in links)


# Records.

def test_read_refuses_what_is_not_a_record(tmp_path):
    place = tmp_path / "runs" / "name"
    place.mkdir(parents=True)
    assert ledger.read(tmp_path) == []  # a folder without a record is of a run that was not finished
    for content in ("{", "[]", '{"format": 2, "id": "name"}', '{"format": 1, "id": "other"}'):
        (place / ledger.RECORD).write_text(content)
        with pytest.raises(InputError, match="record.json"):
            ledger.read(tmp_path)


def test_numbers_that_the_evidence_contradicts_are_refused(tmp_path):
    """Whatever number of a record somebody has edited, it is not rendered."""
    place, own = tmp_path / "runs" / OWN.id, OWN.as_json()
    shutil.copytree(ledger.folder_of(OWN.id), place)
    assert ledger.read(tmp_path) == [OWN]
    for name, value in (("last", {**own["last"], "accuracy": .99}), ("best", {**own["best"], "accuracy": .99}),
                        ("best", {**own["best"], "epoch": 0}), ("last", {**own["last"], "top5": 1}),
                        ("last", {**own["last"], "images": 10}), ("seconds", 1), ("train_images_per_second", 9.)):
        (place / ledger.RECORD).write_text(json.dumps({**own, name: value}))
        with pytest.raises(InputError, match=rf"with the files in its folder: {name}.* is .* and not .*restore"):
            report.update(tmp_path)
    (place / ledger.RECORD).write_text(json.dumps(own))
    for name in ledger.EVIDENCE:
        content = (place / name).read_bytes()
        (place / name).write_bytes(content + b" ")
        with pytest.raises(InputError, match=f"{name} does not have the checksum in the record"):
            ledger.read(tmp_path)
        (place / name).unlink()
        with pytest.raises(InputError, match=f"{name}: No such file or directory"):
            ledger.read(tmp_path)
        (place / name).write_bytes(content)


@pytest.mark.parametrize("first_form", [False, True])
def test_of_a_run_that_held_images_back_the_log_has_the_test_scores(tmp_path, first_form):
    metrics = runlog.read_metrics(ledger.folder_of(OWN.id) / "metrics.jsonl")
    log = "test images with the weights of the {} epoch: err-top1={:f} err-top5=0.100000\n"
    place = tmp_path / "runs" / "x"
    place.mkdir(parents=True)
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (place / "train.log").write_text(log.format("last", .3) + log.format("best", .25))
    own = OWN.result
    held = dataclasses.replace(OWN, right=None, files={name: ledger.sha256(place / name) for name in ledger.EVIDENCE},
                               result=dataclasses.replace(
        own, chosen_on="held-out", experiment=dataclasses.replace(own.experiment, val_split=500),
        last=dataclasses.replace(own.last, accuracy=.7), best=dataclasses.replace(own.best, accuracy=.75),
        held_out=None if first_form else {"last": own.last, "best": own.best}))
    place = place.rename(place.with_name(held.id))
    assert held.cell == cell("atac") and held.id == f"{OWN.id}-v500"
    (place / ledger.RECORD).write_text(json.dumps(held.as_json()))
    assert ledger.read(tmp_path) == [held]
    wrong = held.as_json()
    wrong["best"] = {**wrong["best"], "accuracy": .99}
    (place / ledger.RECORD).write_text(json.dumps(wrong))
    with pytest.raises(InputError, match="best.accuracy is 0.99 and not 0.75"):
        ledger.read(tmp_path)


def test_what_choosing_the_epoch_adds_is_seen_on_the_images_that_did_not_choose():
    plain = record(cell("atac"), .4, val_split=500)
    assert report.choice_text([OWN, plain]) == "No run with `--val-split` yet."
    score = plain.result.last
    held = dataclasses.replace(plain, result=dataclasses.replace(
        plain.result, chosen_on="held-out", best=dataclasses.replace(score, epoch=11, accuracy=.402),
        held_out={"last": score, "best": dataclasses.replace(score, epoch=11, accuracy=.41)}))
    assert report.choice_text([OWN, held]).endswith(
        f"| [{held.id}](runs/{held.id}) | 11 | 0.4100 (+0.0100) | 0.4020 (+0.0020) |")


def test_a_record_of_the_first_form_is_read(tmp_path):
    """As the ledger had them before there was an Experiment."""
    run, result = OWN.experiment, OWN.result
    place = tmp_path / "runs" / OWN.id
    shutil.copytree(ledger.folder_of(OWN.id), place)
    machine = result.environment
    old = {"format": 1, "id": OWN.id, "cell": "cifar10-b1-atac", "model": run.model, "arguments": run.net,
           "dataset": run.dataset, "label_mode": None, "recipe": {
               name: value for name, value in run.as_json()["recipe"].items() if "mixup" not in name},
           "epochs": OWN.epochs, "seed": 0, "devices": 1, "started_from": None, "val_split": 0, "data": result.data,
           "chosen_on": "test", "last": vars(result.last), "seconds": result.seconds, "resumed": result.resumed,
           "best": {name: value for name, value in vars(result.best).items() if name != "images"},
           "train_images_per_second": result.train_images_per_second, "hardware": {
               name: machine[name] for name in ("processor", "threads", "contexts", "gpus")},
           "versions": {name: machine[name] for name in ("python", "mxnet", "numpy")},
           "git_revision": machine["git_revision"], "command": result.command, "files": OWN.files}
    (place / ledger.RECORD).write_text(json.dumps(old))
    assert ledger.read(tmp_path) == [OWN]


@pytest.mark.parametrize("changes, known", [
    ({}, True), ({"seed": 5}, True), ({"val_split": 5000}, True), ({"devices": 2}, False),
    ({"start": "other.params"}, False), ({"recipe": dataclasses.replace(OWN.experiment.recipe, lr=.1)}, False),
    ({"arguments": {**OWN.experiment.net, "inner_relu": False}}, False),
    ({"dataset": "cifar100", "label_mode": "fine"}, False)])
def test_only_runs_of_the_grid_are_its_cells(changes, known):
    assert (grid.cell_of(dataclasses.replace(OWN.experiment, **changes)) == cell("atac")) is known


def test_a_run_outside_the_grid_is_in_no_table():
    own = record(cell("atac"), .9)
    assert scores.by_protocol([record(cell("atac"), .9, devices=2)]) == {}
    assert len(scores.by_protocol([own])) == 1


# Scores.

def test_mean_and_spread_are_over_the_seeds():
    runs = [record(cell("atac"), last, seed) for seed, last in enumerate((.90, .91, .92))]
    (_, found), = scores.by_protocol(runs).items()
    score = found[cell("atac")]
    assert score.mean() == pytest.approx(.91) and score.spread() == pytest.approx(.01)
    assert score.mean("best") == pytest.approx(.911)
    assert score.error() == pytest.approx(.01 / 3 ** .5)
    single = scores.Scores([record(cell("atac"), .91)])
    assert single.spread() is None and single.error() == pytest.approx((.91 * .09 / 10_000) ** .5)


def test_what_differs_in_schedule_or_data_is_not_averaged():
    runs = [record(cell("atac"), .9), record(cell("atac"), .8, epochs=20), record(cell("atac"), .7, data="jpeg"),
            record(cell("atac", task=grid.COARSE), .6), record(cell("atac", task=grid.FINE), .5),
            record(cell("atac"), .4, val_split=5000)]
    groups = scores.by_protocol(runs)
    assert len(groups) == 6
    # The paper's own conditions first.
    assert next(iter(groups.values()))[cell("atac")].mean() in (.9, .4)
    assert [protocol.data_name for protocol in groups][-2:] == [grid.COARSE, grid.FINE]


# Tables and figures.

def test_a_row_has_ours_and_the_published_number():
    runs = [record(cell("atac"), .91, 0), record(cell("atac"), .90, 1), record(cell("relu"), .89, 0)]
    text = report.exhibit_text("table3", runs)
    row, = (line for line in text.splitlines() if line.startswith("| ATAC | 1 "))
    assert "| 90,790 | 0.9050 ± 0.0071 | 0.9060 ± 0.0071 | 0.906 | -0.0010 | +0.0000 | [seed 0](runs/" in row
    assert "NiN | 1 " not in text  # rows without a run are one line
    assert "Not run under these conditions: SEActivation, NiN, LocalSENet with b = 1; any net with b = 2, 3, 4." in text
    assert "400 epochs, the paper's schedule; official data; scored on 10,000" in text
    assert "<sup>" not in text


@pytest.mark.parametrize("changes, marks, words", [
    ({"epochs": 20}, "S", "**short schedule: 20 epochs, the paper has 400**"),
    ({"data": "jpeg"}, "D", "**not the official data: other files**"),
    ({"images": 486, "data": "jpeg"}, "DT", "only 486 training images: a smoke run"),
    ({"val_split": 5000}, "H", "chosen on 5,000 held-out training images"),
    ({"epochs": 20, "data": "jpeg"}, "SD", "short schedule")])
def test_what_is_not_the_papers_condition_is_marked_on_every_number(changes, marks, words):
    runs = [record(cell(unit), .91, **changes) for unit in ("atac", "relu")]
    block, = blocks.blocks_of(grid.TABLE3, runs)
    text = blocks.block_text(block, "")
    assert text.count(f"<sup>{marks}</sup>") == 4 and words in text and block.marks == marks
    alone, = blocks.blocks_of(grid.TABLE3, runs[:1])
    assert blocks.alone_text(alone, "").count(f"<sup>{marks}</sup>") == 2


def test_the_label_modes_cannot_be_mistaken():
    runs = [record(cell("relu", 3, task), .8) for task in (grid.COARSE, grid.FINE)]
    coarse, fine = (blocks.block_text(block, "") for block in blocks.blocks_of(grid.TABLE3, runs))
    assert "20 superclasses" in coarse and "| 0.799 |" in coarse and "<sup>" not in coarse
    assert "100 classes (fine labels)" in fine and "0.799" not in fine and "<sup>F</sup>" in fine


def test_smoke_runs_are_in_the_ledgers_list_alone():
    tiny = [record(cell(unit), .3, images=486) for unit in ("atac", "relu")]
    assert "No run on a whole training set yet: `bash scripts/table3.sh`" in report.exhibit_text("table3", tiny)
    assert report.figures_of(tiny) == {} and "ATAC is above" not in report.conclusions_text(tiny)
    page = report.page(tiny)
    assert "0.3000" not in page and "2 smoke runs on 486 training images" in page
    assert all(f"(runs/{run.id})" in page for run in tiny)
    block, = blocks.blocks_of(grid.TABLE3, tiny)
    text = blocks.block_text(block, "")  # for the terminal of the command that trained them
    assert text.count("0.3000 <sup>T</sup>") == 2 and "figures/" not in text


def test_the_readme_has_the_best_evidence_for_each_cell():
    runs = [record(cell("atac"), .31, epochs=20), *(record(cell(unit), .32, epochs=15) for unit in ("atac", "relu")),
            record(cell("atac", 2), .4), record(cell("swish"), .5, images=486)]
    text = report.results_table(runs)
    rows = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line.startswith("| ")}
    assert "| 0.906 / **0.3110** (20; 1 seed) | 0.927 / **0.4010** (400; 1 seed) | 0.936 |" in rows["ATAC"]
    assert "0.895 / **0.3210** (15; 1 seed) | 0.920 |" in rows["ReLU"] and "Swish" not in rows
    assert "SENet" not in rows and "| 0.906 | 0.926 |" in rows["LocalSENet"]
    whole = report.exhibit_text("table3", runs)
    assert "20 of 400 epochs, data: official; only ATAC with b = 1: last epoch 0.3100" in whole


def test_table_iii_is_there_as_published():
    text = report.exhibit_text("table3", [])
    assert "No run on a whole training set yet" in text
    assert "| ATAC | 0.906 | 0.927 | 0.936 | 0.939 | 0.764 | 0.796 | 0.812 | 0.821 |" in text


def test_replacement_shows_shares_of_the_gain():
    runs = [record(grid.cell(TASK, "atac", 1, sites), last) for sites, last in ((0, .88), (1, .89), (7, .92))]
    text = report.exhibit_text("fig6", runs)
    assert "| 1 of 7 (whole stages) | 82,822 | 0.0551 | 0.8900 | 0.8910 | 0.25 |" in text
    assert "| 7 of 7 (whole stages) | 90,790 | 0.1506 | 0.9200 | 0.9210 | 1.00 |" in text
    assert "Not run under these conditions: 2, 3, 4, 5, 6 sites." in text
    ends = [run for run in runs if grid.key(run.cell) != "cifar10-b1-atac-replaced_sites1"]
    assert "No run on a whole training set yet" in report.exhibit_text("fig6", ends)  # the ends alone are no series
    assert "no shares" in report.exhibit_text("fig6", runs[1:])


def test_extras_appear_when_they_were_run():
    assert "GELU" not in report.exhibit_text("fig7", [record(cell("relu"), .9)])
    assert "| GELU | 1 |" in report.exhibit_text("fig7", [record(cell("relu"), .9), record(cell("gelu"), .9)])


def test_the_kinds_of_figures():
    """One net has none; differences need the base; costs are for exhibits over depth."""
    def kinds(*runs):
        return {block.exhibit.name: block.kinds for exhibit in grid.EXHIBITS.values()
                for block in blocks.blocks_of(exhibit, runs)}
    atac, relu, nin = (record(cell(unit), .9) for unit in ("atac", "relu", "nin"))
    assert kinds(atac)["table3"] == () and kinds(atac, nin)["table3"] == ("accuracy",)
    assert kinds(atac, relu) == {"table3": ("accuracy", "difference"), "fig7": ("parameters", "macs"),
                                 "fig8": ("parameters", "macs")}
    deep = [record(cell(unit, 2), .9) for unit in ("atac", "relu")]
    assert kinds(atac, relu, *deep) == {"table3": ("parameters", "difference"), **dict.fromkeys(
        ("fig7", "fig8"), ("parameters", "macs", "difference"))}
    assert kinds(relu, deep[0])["table3"] == ("parameters",)  # no depth has both
    steps = [record(grid.cell(TASK, "atac", 1, sites), .89 + sites / 1000) for sites in (1, 3)]
    assert kinds(*steps)["fig6"] == ("accuracy",) and kinds(*steps, relu)["fig6"] == ("difference",)
    assert kinds(*steps, relu, record(cell("atac"), .95))["fig6"] == ("difference", "share")


def everything(change=0.):
    """Runs of all nets, two depths and two seeds, and of Figure 6."""
    runs = [record(cell(unit, b), .9 + change * seed + b / 100, seed) for b in (1, 2) for seed in (0, 1) for unit in (
        "relu", "atac", "nin", "selu", "senet")] + [record(cell("seactivation"), .5)]
    return runs + [record(grid.cell(TASK, "atac", 1, sites), .9 + sites / 1000) for sites in (1, 3)]


def test_the_numbers_of_figures_are_those_of_the_records():
    wanted = report.figures_of(everything(.01))
    name = "table3-cifar10-e400-0f0f0f0f"
    by_net = {series["label"]: series for series in wanted[f"{name}-parameters.png"]["series"]}
    assert by_net["ATAC"]["ours"] == [[90.79, pytest.approx(.915), pytest.approx(.01 / 2 ** .5)],
                                      [200.55, pytest.approx(.925), pytest.approx(.01 / 2 ** .5)]]
    assert [accuracy for _, accuracy in by_net["ATAC"]["published"]] == [.906, .927, .936, .939]
    assert by_net["ATAC"]["color"] == "#D55E00" and by_net["SEActivation"]["ours"][0][2] is None
    differences = {series["label"]: series["points"] for series in wanted[f"{name}-difference.png"]["series"]}
    assert "ReLU" not in differences and differences["SEActivation"][0][1] == pytest.approx(-.415)
    assert [point[:2] for point in differences["ATAC"]] == [[1, 0], [2, 0]]
    macs, = (series for series in wanted["fig7-cifar10-e400-0f0f0f0f-macs.png"]["series"] if series["label"] == "ReLU")
    assert macs["ours"][0][0] == pytest.approx(12.5, abs=.2)


def test_figures_are_drawn_once_and_alike(tmp_path):
    wanted = {name: numbers for name, numbers in report.figures_of(everything()).items() if not name.startswith("fig8")}
    assert {numbers["drawn"] for numbers in wanted.values()} == {"over_cost", "differences", "replacement"}
    wanted.update(report.figures_of([record(cell(unit), last) for unit, last in (
        ("relu", .9), ("atac", .91), ("nin", .89), ("seactivation", .5))]))  # of one depth
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that does not fit, say
        assert figures.save(wanted, tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in first if name.endswith(".png")} == set(wanted) and len(first) == 2 * len(wanted)
    assert not figures.save(wanted, tmp_path)
    name, other = sorted(wanted)[:2]
    (tmp_path / name).unlink()
    (tmp_path / other).with_suffix(".pdf").unlink()
    (tmp_path / "old.pdf").write_bytes(b"")
    assert figures.save(wanted, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first  # the old one is gone
    changed = copy.deepcopy(wanted[name])
    changed["title"] += "!"
    assert figures.shown(tmp_path / name) not in (None, figures.digest(changed))
    with Image.open(tmp_path / name) as picture:
        assert abs(picture.width - 3.3 * 220) <= 1


def test_update_writes_the_page_once(tmp_path):
    place = tmp_path / "runs" / RECORDS[0].id
    shutil.copytree(ledger.folder_of(RECORDS[0].id), place)
    assert report.update(tmp_path) and not report.update(tmp_path)
    assert RECORDS[0].id in (tmp_path / report.PAGE).read_text(encoding="utf-8")


def test_a_call_shows_its_own_cells_and_where_the_rest_is(monkeypatch, tmp_path):
    runs = [record(cell("atac"), .91), record(cell("relu"), .89), record(cell("nin"), .90),
            record(cell("atac"), .5, epochs=20), record(cell("atac"), .4, data="jpeg"),
            *(record(grid.cell(TASK, "atac", 1, sites), .9) for sites in (1, 3))]
    monkeypatch.setattr(ledger, "read", lambda results: runs)
    data = {TASK: {"sha256": "0f" * 32}}
    ours = [grid.run(cell("atac"), 400, 0), grid.run(cell("relu"), 400, 0), grid.run(cell("xunit"), 400, 0)]
    text = report.own_text(grid.TABLE3, ours, data, tmp_path)
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["| net", "| ReLU", "| ATAC"] and "0.9100" in text and "0.5000" not in text and "0.4000" not in text
    assert text.endswith(f"Table III: activation, micro-modules and locality, beside the published numbers, are in "
                         f"{tmp_path / report.PAGE}")
    steps = report.own_text(grid.FIG6, [grid.run(grid.cell(TASK, "atac", 1, 1), 400, 0)], data, tmp_path)
    row, = (line for line in steps.splitlines() if line.startswith("| 1 of 7"))
    assert "| 0.50 |" in row and "| 3 of 7" not in steps  # its share is of the gain between all that the ledger has


def test_render_names_a_table_without_a_place():
    with pytest.raises(InputError, match="nets"):
        report.render("docs/MODELS.md", "no tables here")
