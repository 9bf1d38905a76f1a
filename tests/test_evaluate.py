"""evaluate.py: files of ours, of MXNet and of the authors, everything that does not fit, and pictures."""
import csv
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
import tiny
from authors_names import to_authors
from PIL import Image, ImageFile

import evaluate
import model
from engine import evaluation, figures
from engine.data import cifar, cifar_files, images, in_memory
from engine.figures import confusion
from support import bits

ROOT = Path(__file__).resolve().parent.parent
NAMES = cifar_files.CIFAR10_CLASSES
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One folder with both data sets, found by --data-dir either way."""
    return tiny.both_cifars(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with the same ATAC net in a file of ours, of MXNet and of the authors, and some others."""
    folder = tmp_path_factory.mktemp("files")
    net = a_net()
    tiny.save(folder / "own.params", net, settings())
    net.save_parameters(str(folder / "plain.params"))
    mx.nd.save(str(folder / "authors.params"), {
        to_authors(name): parameter.data() for name, parameter in net._collect_params_with_prefix().items()})
    net.features.save_parameters(str(folder / "features.params"))
    net.hybridize()
    net(mx.nd.zeros((1, 3, 32, 32)))
    net.export(str(folder / "exported"))
    np.savez(folder / "saved.npz", **{parameter.name: parameter.data().asnumpy()
                                      for parameter in net.collect_params().values()})
    a_net("resnet20_v2", classes=100).save_parameters(str(folder / "hundred.params"))
    a_net("resnet20_v2", classes=20).save_parameters(str(folder / "twenty.params"))
    tiny.save(folder / "coarse.params", a_net("resnet20_v2", classes=100),
                    settings("resnet20_v2", dataset="cifar100", label_mode="coarse", classes=100))
    (folder / "cut.params").write_bytes((folder / "own.params").read_bytes()[:-100])
    (folder / "text.params").write_text("no weights\n" * 9)
    return folder


def a_net(name="atac_resnet20_v2", classes=10):
    net = tiny.ready(model.get_model(name, blocks=1, classes=classes), 3, mode="imperative")
    for parameter in net.collect_params().values():  # away from the constants of a fresh net
        if parameter.name.endswith(("running_mean", "bias")):
            parameter.set_data(mx.nd.array(np.linspace(-.2, .2, parameter.shape[0])))
    return net


def settings(name="atac_resnet20_v2", dataset="cifar10", label_mode=None, classes=10):
    return tiny.saved(None, model=name, arguments={"blocks": 1, "classes": classes}, dataset=dataset,
                      label_mode=label_mode)


def run(files, *arguments):
    return tiny.call(evaluate.main, "--gpus", "", *arguments, folder=files)


def record_of(files, *arguments):
    """What --json has of an evaluation, and the lines for people."""
    result = run(files, "--json", "record.json", *arguments)
    assert result.status == 0, result.err
    assert "{" not in result.out
    return json.loads((files / "record.json").read_text()), result.out


def refused(result, status, *parts):
    line = tiny.one_sentence(result, status, *parts)
    assert line.startswith("evaluate.py: ") and '"top1"' not in result.out
    return line


# What a file is evaluated as.

PLAIN = ["--model", "atac_resnet20_v2", "--blocks", "1", "--dataset", "cifar10"]


@pytest.mark.parametrize("arguments", [
    ["--params", "own.params"], ["--params", "own.params", *PLAIN], ["--params", "plain.params", *PLAIN],
    ["--params", "authors.params", *PLAIN], ["--params", "own.params", "--batch-size", "7"],
    ["--params", "exported-0000.params", *PLAIN], ["--params", "saved.npz", *PLAIN],
    ["--params", "own.params", "--batch-size", "1000", "--mode", "imperative"],
    ["--params", "authors.params", "--model", "atac", "--act-type", "ChaATAC", "--useReLU", "--r", "2", "--blocks", "1",
     "--dataset", "cifar10", "--classes", "10"]])
def test_one_net_has_one_score_however_its_file_was_written(files, data, arguments):
    found, _ = record_of(files, "--data-dir", data, *arguments)
    test = cifar.load("cifar10", data).test
    net = a_net()
    logits = net(mx.nd.array(in_memory.normalise(test.images))).asnumpy()
    answers = logits.argmax(1)
    assert found["images"] == 40 and found["top1"] == (answers == test.labels).mean()
    assert (bits.unpacked(found["right"], 40) == (answers == test.labels)).all()
    expected = tiny.score(net, in_memory.EvalBatches(test, 40), 10)
    assert found["top5"] == expected.top5 and found["loss"] == pytest.approx(expected.loss, rel=1e-5)
    assert found["classes"] == [
        {"class": name, "images": 4, "right": int(((answers == label) & (test.labels == label)).sum())}
        for label, name in enumerate(NAMES)]


def test_the_report(files, data):
    found, out = record_of(files, "--data-dir", data, "--params", "own.params", "--gpus", "")
    assert (found["params"], found["model"], found["dataset"], found["label_mode"]) \
        == ("own.params", "atac_resnet20_v2", "cifar10", None)
    assert found["sha256"] == hashlib.sha256((files / "own.params").read_bytes()).hexdigest()
    assert found["arguments"] == settings().experiment.net
    assert found["data"].startswith("not the official files: data_batch_1.bin (64 images)")
    assert found["data_sha256"] == cifar.load("cifar10", data).provenance["sha256"]
    assert found["images_per_second"] == pytest.approx(40 / found["seconds"])
    lines = out.splitlines()
    assert lines[0] == ("atac_resnet20_v2, blocks=1, classes=10, reduction=2, inner_relu=True: weights from own.params"
                        ": a file of this project, 113 arrays under the names of save_parameters")
    assert "cifar10: 40 test images, data not the official files" in lines[1]
    assert "running on the CPU, as asked" in lines[1]
    assert [line.split()[0] for line in lines[3:13]] == list(NAMES)
    for line, row in zip(lines[3:13], found["classes"]):
        assert line.split()[1:4] == [str(row["images"]), str(row["right"]), f"{row['right'] / row['images']:.4f}"]
    assert lines[13] == "counted: every image once" == f"counted: {found['counting']}" and lines[14] == found["form"]
    assert lines[15].startswith("40 images in ") and lines[15].endswith(" images/s")
    assert lines[16].startswith(f"cross entropy {found['loss']:.4f}, top-5 accuracy {found['top5']:.4f} (error ")
    # What everybody wants to know is the last thing seen.
    assert lines[17:] == [f"top-1 accuracy {found['top1']:.4f} (error {100 - 100 * found['top1']:.2f}%)"]


@pytest.mark.parametrize("arguments, mode, classes", [
    (["--params", "coarse.params"], "coarse", 20),
    (["--params", "hundred.params", "--model", "resnet20_v2", "--blocks", "1", "--dataset", "cifar100"], "coarse", 20),
    (["--params", "twenty.params", "--model", "resnet20_v2", "--blocks", "1", "--dataset", "cifar100"], "coarse", 20),
    (["--params", "hundred.params", "--model", "resnet20_v2", "--blocks", "1", "--dataset", "cifar100",
      "--label-mode", "fine"], "fine", 100),
    (["--params", "hundred.params", "--model", "resnet20_v2", "--blocks", "1", "--dataset", "cifar10",
      "--classes", "100"], None, 10)])
def test_labels_of_both_kinds_and_outputs_that_no_label_has(files, data, arguments, mode, classes):
    found, out = record_of(files, "--data-dir", data, *arguments)
    assert found["label_mode"] == mode and len(found["classes"]) == classes and found["images"] == 40
    assert sum(row["images"] for row in found["classes"]) == 40
    assert (f"({mode} labels)" in out) == (mode is not None)


def test_of_a_runs_folder_best_params_are_evaluated(files, data, tmp_path):
    (tmp_path / "best.params").write_bytes((files / "own.params").read_bytes())
    result = run(files, "--data-dir", data, "--params", tmp_path)
    assert result.status == 0 and f": weights from {tmp_path / 'best.params'}: " in result.out.splitlines()[0]
    assert f"{tmp_path} is a folder: taking its best.params, the weights of the epoch that scored best" in result.err


def test_a_report_names_what_a_class_is_mostly_taken_for():
    rows = evaluation.rows_of(np.array([[3, 2, 0, 0], [0, 0, 1, 4], [0, 0, 0, 0]]), ("cat", "doggy", "eel"))
    assert rows == [("cat", 5, 3, "doggy", 2), ("doggy", 5, 0, "output 3", 4), ("eel", 0, 0, "", 0)]
    assert evaluation.table_of(rows).splitlines() == [
        "class  images  right  accuracy  most often taken for",
        "cat         5      3    0.6000  doggy (2)",
        "doggy       5      0    0.0000  output 3 (4)",
        "eel         0      0         -"]
    json.dumps(rows)


def test_of_many_classes_the_worst_are_shown_and_those_without_images_left_out():
    counts = 9 * np.eye(120, dtype=int)
    counts[[3, 50, 119], 7] = 1, 4, 9  # three classes with mistakes
    counts[99] = 0
    rows = evaluation.rows_of(counts, [f"class {label}" for label in range(120)])
    assert len(rows) == 119 and "class 99" not in {row[0] for row in rows}
    title, heading, *lines = evaluation.table_of(rows).splitlines()
    assert title == "the 10 worst of 119 classes (--by-class FILE writes them all):" and len(lines) == 10
    assert [line[:9] for line in lines[:3]] == ["class 119", "class 50 ", "class 3  "]
    assert lines[0].split()[2:] == ["18", "9", "0.5000", "class", "7", "(9)"]


def test_the_table_of_all_classes_goes_to_a_file(files, data, tmp_path):
    found, out = record_of(files, "--data-dir", data, "--params", "own.params", "--by-class", tmp_path / "classes.csv")
    heading, *rows = csv.reader((tmp_path / "classes.csv").read_text().splitlines())
    assert heading == ["class", "images", "right", "most_often_taken_for", "times"]
    assert [row[:3] for row in rows] == [[row["class"], str(row["images"]), str(row["right"])]
                                         for row in found["classes"]]
    assert f"table of 10 classes: {tmp_path / 'classes.csv'}" in out
    result = run(files, "--data-dir", data, "--params", "own.params", "--by-class", "/proc/x.csv")
    tiny.one_sentence(result, 1, "/proc/x.csv cannot be written")
    assert result.out.splitlines()[-1].startswith("top-1 accuracy ")  # which took its time


# What does not fit.

@pytest.mark.parametrize("arguments, status, parts", [
    ([], 2, ["required: --params"]),
    (["--params", ""], 2, ["--params: it is empty"]),
    (["--params", "own.params", "--batch-size", "0"], 2, ["--batch-size: 0 is below 1"]),
    (["--params", "own.params", "--images", "a.png", "--confusion-matrix", "x.png"], 2, ["exclude each other"]),
    (["--params", "own.params", "--images"], 2, ["--images: expected at least one argument"]),
    (["--params", "own.params", "--useReLU"], 2, ["need --model atac"]),
    (["--params", "own.params", "--by-class", "."], 2, ["--by-class .: it is a folder; name a file in it"]),
    *[(["--params", "own.params", "--confusion-matrix", path], 2, [f"{path!r} does not end in .png, .pdf or .svg"])
      for path in ("cm.jpg", "cm", ".", ".png", "cm.png.gz")],
    (["--params", "own.params", "--confusion-matrix", "none/x.png"], 2, ["none/x.png: that folder does not exist"]),
    (["--params", "own.params", "--by-class", "none/x.csv"], 2, ["none/x.csv: that folder does not exist"]),
    (["--params", "own.params", "--images", "a.png", "--by-class", "x.csv"], 2, ["exclude each other"]),
    (["--params", "own.params", "--use-rec"], 2, ["--use-rec is for imagenet, not for cifar10; leave it out"]),
    (["--params", "own.params", "--count-padding", "--dataset", "cifar10"], 2, ["--count-padding is for imagenet"]),
    (["--params", "own.params", "--input-size", "64", "--dataset", "cifar100"], 2, ["--input-size is for imagenet"]),
    (["--params", "own.params", "-j", "4"], 2, ["-j is for imagenet and folder, not for cifar10"]),
    (["--params", "plain.params", "--model", "x", "--dataset", "cifar10"], 2, ["unknown model 'x'; the models are"]),
    (["--params", "plain.params", "--model", "nin", "--alpha", "1", "--dataset", "cifar10"], 2, ["argument 'alpha'"]),
    (["--params", "plain.params", "--model", "atac", "--r", "3", "--dataset", "cifar10"], 2, ["does not divide"]),
    # a file of ours knows better
    (["--params", "own.params", "--model", "nin"], 1,
     ["own.params was trained with --model atac_resnet20_v2, not nin_resnet20_v2; leave --model out"]),
    (["--params", "own.params", "--dataset", "cifar100"], 1, ["was trained with --dataset cifar10, not cifar100"]),
    (["--params", "own.params", "--label-mode", "fine"], 1, ["cifar10, which has no label mode; leave --label-mode"]),
    (["--params", "coarse.params", "--label-mode", "fine"], 1, ["was trained with --label-mode coarse, not fine"]),
    (["--params", "own.params", "--classes", "20"], 1, ["own.params holds a net with classes=10, not 20"]),
    (["--params", "own.params", "--model", "atac", "--blocks", "3"], 1, ["holds a net with blocks=1, not 3"]),
    (["--params", "own.params", "--blocks", "3"], 1, ["holds a net with blocks=1, not 3"]),
    (["--params", "own.params", "--model", "atac", "--alpha", "1"], 1, ["holds a net with no alpha, not 1.0"]),
    (["--params", "own.params", "--model", "atac", "--act-type", "ChaATAC"], 1,
     ["holds a net with ReLU inside its units: add --useReLU"]),
    # of other files the flags say what they are
    (["--params", "plain.params"], 1, ["plain.params holds weights only: name its net with --model"]),
    (["--params", "plain.params", "--model", "atac"], 1, ["plain.params holds weights only: name its --dataset"]),
    (["--params", "plain.params", "--model", "atac", "--dataset", "cifar10"], 1,
     ["plain.params does not fit this net: it lacks"]),
    (["--params", "plain.params", "--model", "resnet20_v2", "--blocks", "1", "--dataset", "cifar10"], 1,
     ["does not fit this net: it has 70 that the net does not"]),
    (["--params", "plain.params", "--model", "atac", "--blocks", "1", "--r", "4", "--dataset", "cifar10"], 1,
     ["does not fit this net", "differ in shape"]),
    (["--params", "plain.params", "--model", "atac", "--blocks", "1", "--dataset", "cifar100"], 1,
     ["plain.params has 10 classes, cifar100 nets have 100: is it another --dataset? (--classes 10 evaluates it all"]),
    (["--params", "plain.params", "--model", "atac", "--blocks", "1", "--dataset", "cifar100", "--classes", "10"], 1,
     ["plain.params has 10 classes, too few for the 20 labels of cifar100 (coarse labels)"]),
    (["--params", "hundred.params", "--model", "resnet20_v2", "--blocks", "1", "--dataset", "cifar10"], 1,
     ["hundred.params has 100 classes, cifar10 nets have 10: is it another --dataset?"]),
    (["--params", "twenty.params", "--model", "resnet20_v2", "--blocks", "1", "--dataset", "cifar100", "--label-mode",
      "fine"], 1, ["twenty.params has 20 classes, cifar100 nets have 100"]),
    (["--params", "plain.params", "--model", "atac", "--blocks", "1", "--dataset", "cifar10", "--classes", "12"], 1,
     ["does not fit this net", "(10, 64) in the file and (12, 64) in the net"]),
    (["--params", "plain.params", *PLAIN, "--label-mode", "fine"], 2, ["--label-mode is for cifar100, not for"]),
    (["--params", "plain.params", "--model", "atac_resnet50_v1b", "--dataset", "cifar10"], 2, ["224 x 224 pixels"]),
    # files that are none
    (["--params", "none.params"], 1, ["none.params cannot be read: No such file or directory"]),
    (["--params", "."], 1, [". is a folder without best.params; name a run's folder or a parameter file"]),
    (["--params", "own.params", "--json", "none/x.json"], 2, ["--json none/x.json: that folder does not exist"]),
    (["--params", "features.params", *PLAIN], 1, ["features.params does not fit this net: it lacks 2 arrays"]),
    (["--params", "cut.params"], 1, ["cut.params is not a usable parameter file: "]),
    (["--params", "text.params"], 1, ["text.params is not a usable parameter file: it does not start with MXNet's"]),
    (["--params", "own.params", "--gpus", "0,0"], 1, ["--gpus takes different numbers"])])
def test_what_does_not_fit_is_one_sentence(files, data, arguments, status, parts):
    refused(run(files, "--data-dir", data, *arguments), status, *parts)


@pytest.mark.parametrize("changes, said", [
    ({"arguments": []}, "arguments is not an object"),
    ({"arguments": {"classes": 10, "wings": 2}}, "has no argument 'wings'"),
    ({"arguments": {"classes": "10"}}, "arguments.classes is not a whole number of at least 1"),
    ({"arguments": {"classes": None}}, "arguments.classes is not a whole number"), ({"model": 3}, "model is not text"),
    ({"arguments": {"classes": [10]}}, "arguments.classes is not"), ({"dataset": ["cifar10"]}, "dataset is not one of"),
    ({"dataset": "mnist"}, "dataset is not one of cifar10"), ({"label_mode": 7}, "label_mode is not one of"),
    ({"input_size": "x"}, "input_size is not a number of pixels"),
    ({"input_size": 32 * 10**6}, "input_size is not a number of pixels"),
    ({"crop_ratio": 0}, "crop_ratio is not a share above 0")])
def test_settings_of_a_file_that_cannot_be_are_one_sentence(files, data, changes, said):
    net = tiny.ready(model.get_model("atac_resnet20_v2", blocks=1), 3, mode="imperative")
    whole = settings().as_json()
    odd = {**whole, "experiment": {**whole["experiment"], **changes}}
    tiny.save(files / "odd.params", net, SimpleNamespace(as_json=lambda: odd))
    refused(run(files, "--params", "odd.params", "--data-dir", data), 1, said)


def test_data_that_are_missing_are_one_sentence(files, tmp_path):
    result = run(files, "--params", "own.params", "--data-dir", tmp_path, "--mirror", "file:///none")
    refused(result, 1, f"no CIFAR-10 in {tmp_path}", "could not be downloaded")


def test_a_net_that_answers_with_no_numbers_is_one_sentence(files, data, tmp_path):
    net = a_net()
    net.output.weight.set_data(mx.nd.full((10, 64), 3e38))
    net.save_parameters(str(tmp_path / "huge.params"))
    result = run(files, "--data-dir", data, "--params", tmp_path / "huge.params", *PLAIN)
    refused(result, 1, "huge.params: the net answers with numbers that are not finite; use another checkpoint")


def test_no_traceback_and_nothing_but_json_on_standard_output_of_the_process(files, data):
    command = [sys.executable, str(ROOT / "evaluate.py"), "--gpus", "", "--data-dir", data, "--json", "--params"]
    done = subprocess.run([*command, "own.params"], cwd=files, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and json.loads(done.stdout)["images"] == 40
    assert done.stderr.splitlines()[-1].startswith("top-1 accuracy ")
    done = subprocess.run([*command, "cut.params"], cwd=files, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1


# The confusion matrix.

@pytest.mark.parametrize("params", ["own.params", "coarse.params"])
def test_the_confusion_matrix_is_a_png(files, data, tmp_path, params):
    found, out = record_of(files, "--data-dir", data, "--params", params, "--confusion-matrix", tmp_path / "matrix.png")
    assert found["images"] == 40 and f"\nconfusion matrix: {tmp_path / 'matrix.png'}\n" in out
    with Image.open(tmp_path / "matrix.png", formats=["PNG"]) as picture:
        assert picture.format == "PNG" and min(picture.size) > 500 and len(set(picture.convert("RGB").getdata())) > 20


def test_a_hundred_classes_and_an_empty_row_can_be_drawn(tmp_path):
    counts = np.eye(100, 120, dtype=int)
    counts[3] = 0
    confusion.draw_confusion(counts, [f"class {label}" for label in range(100)], tmp_path / "x.png", "title")
    assert (tmp_path / "x.png").read_bytes().startswith(PNG)


def test_the_extension_decides_the_format_and_any_name_can_be_drawn(tmp_path):
    names = ["海龟", "a$b$", "$\\frac$", "\udcff", "new\nline", "x" * 200]
    starts = {"cm.png": PNG, "cm.PNG": PNG, "cm.pdf": b"%PDF", "cm.svg": b"<?xml"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a sign that a font lacks, say
        for name in starts:
            confusion.draw_confusion(np.eye(6, dtype=int), names, tmp_path / name, "title")
    for name, start in starts.items():
        assert (tmp_path / name).read_bytes().startswith(start)
    with figures.words(*names) as drawn:
        assert drawn[1:] == ["a$b$", "$\\frac$", "\\udcff", "new\\nline", "x" * 29 + "..."]
        assert drawn[0] in ("海龟", "\\u6d77\\u9f9f")  # with a font for it, or without


def test_a_confusion_matrix_that_cannot_be_written_is_one_sentence(files, data):
    refused(run(files, "--data-dir", data, "--params", "own.params", "--confusion-matrix", "/proc/x.png"), 1,
            "/proc/x.png cannot be written: ")  # by anybody


# Pictures.

def classified(files, *pictures):
    """What --json has of these pictures, with the net in own.params."""
    return answers(run(files, "--params", "own.params", "--json", "--images", *pictures))


def answers(result):
    assert result.status == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def noise(width, height, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def test_a_picture_of_the_nets_own_size_is_classified_as_the_image_it_is(files, tmp_path):
    pixels = noise(32, 32)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    result = run(files, "--params", "own.params", "--json", "-", "--images", tmp_path / "a.png")
    logits = a_net()(mx.nd.array(in_memory.normalise(pixels.transpose(2, 0, 1)[None]))).asnumpy()[0]
    chances = np.exp(logits) / np.exp(logits).sum()
    best = np.argsort(-chances)[:5]
    found, = answers(result)
    assert found["image"] == str(tmp_path / "a.png") and found["classes"] == [NAMES[label] for label in best]
    assert found["probabilities"] == pytest.approx(chances[best], rel=1e-4)
    assert result.err.splitlines()[-1].startswith(f"{tmp_path / 'a.png'}: {NAMES[best[0]]} {chances[best[0]]:.3f}, ")
    assert run(files, "--params", "own.params", "--images", tmp_path / "a.png").out == \
        result.err.splitlines()[-1] + "\n"


def test_pictures_of_every_size_and_kind(files, tmp_path):
    made = {
        "tiny.png": Image.fromarray(noise(1, 1)), "thin.png": Image.fromarray(noise(1, 300)),
        "wide.jpg": Image.fromarray(noise(301, 37)), "large.jpg": Image.fromarray(noise(900, 700)),
        "grey.png": Image.fromarray(noise(40, 50, 1)), "grey.jpg": Image.fromarray(noise(40, 50, 1)),
        "alpha.png": Image.fromarray(noise(40, 50, 4)), "bits.png": Image.fromarray(noise(40, 50, 1)).convert("1"),
        "palette.gif": Image.fromarray(noise(40, 50)).convert("P"),
        "cmyk.jpg": Image.fromarray(noise(40, 50)).convert("CMYK"),
        "deep.png": Image.fromarray(noise(40, 50, 1).astype(np.uint16) * 257)}
    for name, picture in made.items():
        picture.save(tmp_path / name)
    found = classified(files, *[tmp_path / name for name in made])
    assert [Path(record["image"]).name for record in found] == list(made)
    for record in found:
        assert len(record["classes"]) == 5 and record["probabilities"] == sorted(record["probabilities"], reverse=True)


def test_grey_of_sixteen_bits_is_the_same_picture_as_of_eight(files, tmp_path):
    pixels = noise(32, 32, 1)
    Image.fromarray(pixels).save(tmp_path / "eight.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    eight, sixteen = classified(files, tmp_path / "eight.png", tmp_path / "sixteen.png")
    assert sixteen["probabilities"] == eight["probabilities"]


def test_what_is_transparent_is_white(files, tmp_path):
    pixels = noise(32, 32, 4)
    pixels[..., 3] = 255 * (pixels[..., 3] > 99)
    shown = np.where(pixels[..., 3:], pixels[..., :3], 255)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    Image.fromarray(shown.astype(np.uint8)).save(tmp_path / "white.png")
    one, two = classified(files, tmp_path / "alpha.png", tmp_path / "white.png")
    assert one["probabilities"] == two["probabilities"]


def test_the_middle_square_of_a_picture_counts(files, tmp_path):
    square = noise(32, 32)
    wide = np.concatenate([noise(9, 32, seed=1), square, noise(10, 32, seed=2)], axis=1)
    Image.fromarray(square).save(tmp_path / "square.png")
    Image.fromarray(wide).save(tmp_path / "wide.png")
    one, two = classified(files, tmp_path / "square.png", tmp_path / "wide.png")
    assert one["probabilities"] == two["probabilities"]


def test_a_picture_is_turned_as_its_camera_says(files, tmp_path):
    pixels = noise(32, 32)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees, clockwise
    Image.fromarray(pixels).save(tmp_path / "upright.png")
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "camera.png", exif=turned)
    one, two = classified(files, tmp_path / "upright.png", tmp_path / "camera.png")
    assert one["probabilities"] == two["probabilities"]


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


REASONS = {"text.png": "it is not an image that can be read (JPEG, PNG, ", "empty.jpg": "the file is empty",
           "short.png": "it ", "cut.jpg": "the JPEG ends too early", "bomb.png": "has more pixels than"}


def test_what_is_no_picture_is_one_sentence(files, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)  # GluonCV turns it on for the whole process
    Image.fromarray(noise(50, 50)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    Image.fromarray(noise(50, 50)).save(tmp_path / "whole.jpg")
    bad = {"text.png": b"no picture", "empty.jpg": b"", "cut.png": whole[:len(whole) // 2], "short.png": whole[:20],
           "flipped.png": whole[:60] + bytes([whole[60] ^ 255]) + whole[61:],
           "cut.jpg": (tmp_path / "whole.jpg").read_bytes()[:700],
           "bomb.png": PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        refused(run(files, "--params", "own.params", "--images", tmp_path / name), 1, f"{tmp_path / name}: ",
                REASONS.get(name, "it cannot be decoded ("))
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("none.png", "No such file"), ("pipe", "it is no regular file"), (".", "Is a directory")):
        refused(run(files, "--params", "own.params", "--images", tmp_path / name), 1,
                f"{tmp_path / name}: it cannot be read: {reason}")


def test_every_cut_of_a_picture_is_read_or_one_sentence(tmp_path):
    for kind in images.FORMATS:
        Image.fromarray(noise(6, 5)).save(tmp_path / "whole", kind)
        whole = (tmp_path / "whole").read_bytes()
        for end in range(0, len(whole), max(1, len(whole) // 40)):
            (tmp_path / "cut").write_bytes(whole[:end])
            try:
                evaluation.classify(SimpleNamespace(logits=lambda x: np.zeros((1, 10))), [tmp_path / "cut"], NAMES,
                                    lambda picture: np.zeros((1, 3, *picture.shape[:2])))
            except evaluate.InputError as error:
                assert re.match(f"{tmp_path / 'cut'}: (it is not an image|it cannot be decoded|it has more|the )",
                                str(error)), (kind, end, error)
