"""evaluate.py on ImageNet: files of the authors, of GluonCV and of ours, both ways of counting, both sources."""
import hashlib
import json
from pathlib import Path

import imagenet_files
import mxnet as mx
import numpy as np
import pytest
import tiny
from authors_names import to_authors
from PIL import Image

import evaluate
import model
from engine.data import image_batches, image_sources, imagenet
from model import weights
from ops import loader

SIZE = 32  # of the images, for speed
CLASSES = ("n01443537", "n02123045", "n07753592", "n09428293")  # some of the 1,000
LABELS = [imagenet.SYNSETS.index(name) for name in CLASSES]
TITLES = ["n01443537 goldfish", "n02123045 tabby", "n07753592 banana", "n09428293 seashore"]
SAMPLE = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "imagenet-sample"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with some validation images in class folders and, in rec/, in a record file."""
    folder = tmp_path_factory.mktemp("imagenet")
    written = imagenet_files.folder(folder / "val", (4, 3, 5, 2), CLASSES)
    labels = [imagenet.SYNSETS.index(name.split("/")[0]) for name in written]
    (folder / "rec").mkdir()
    imagenet_files.record_file(folder / "rec" / "val", list(written.values()), labels)
    return folder


def a_net(name, seed=0, **arguments):
    """A ResNet-50 whose running statistics fit noise, so that its logits are numbers of a usual size."""
    net = tiny.ready(model.get_model(name, **arguments), seed, mode="imperative")
    for parameter in net.collect_params().values():
        if parameter.name.endswith(("running_mean", "bias")):
            parameter.set_data(mx.nd.array(np.linspace(-.2, .2, parameter.shape[0])))
        elif parameter.name.endswith("running_var"):
            parameter.set_data(mx.nd.array(np.linspace(8, 12, parameter.shape[0])))
    return net


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a file as the authors' released one, one as GluonCV's, and checkpoints of ours."""
    folder = tmp_path_factory.mktemp("files")
    net = a_net("atac_resnet50_v1b")
    bias = np.zeros(1000)
    bias[LABELS] = 2  # so that some answers are right
    net.fc.bias.set_data(mx.nd.array(bias))
    authors = {to_authors(name): parameter.data().astype("float16") for name, parameter in
               net._collect_params_with_prefix().items()}
    assert len(authors) == 447 and authors["layer3.0.relu1.module.3.weight"].shape == (256, 128, 1, 1)
    mx.nd.save(str(folder / "authors.params"), authors)
    a_net("resnet50_v1b").save_parameters(str(folder / "gluoncv.params"))
    own = a_net("resnet50_v1b", classes=4)
    tiny.save(folder / "own.params", own, settings())
    tiny.save(folder / "backwards.params", own, settings(class_names=list(reversed(CLASSES))))
    tiny.save(folder / "other.params", own, settings(class_names=["n01440764", *CLASSES[1:]]))
    tiny.save(folder / "unnamed.params", own, settings(class_names=[f"class {label}" for label in range(4)]))
    return folder


def settings(class_names=CLASSES):
    return tiny.saved(class_names, model="resnet50_v1b", arguments={"classes": 4}, dataset="imagenet",
                      input_size=SIZE, crop_ratio=.8)


def run(files, data, *arguments, fused="off"):
    return tiny.call(evaluate.main, "--gpus", "", "--data-dir", data, "--fused", fused, "--json", *arguments,
                     folder=files)


def record_of(result):
    """What --json has, which is all that there is on standard output; the words for people are on the other."""
    assert result.status == 0, result.err
    return json.loads(result.out)


def refused(result, status, *parts):
    line = tiny.one_sentence(result, status, *parts)
    assert line.startswith("evaluate.py: ") and '"top1"' not in result.out


AUTHORS = ["--params", "authors.params", "--model", "atac_resnet50_v1b", "--dataset", "imagenet", "--input-size", SIZE]


@pytest.fixture(scope="module")
def expected(files, data):
    """What the authors' net answers, and the labels that the images have."""
    net = model.load_params(model.get_model("atac_resnet50_v1b"), files / "authors.params")
    source = image_sources.Folders(data / "val", imagenet.SYNSETS)
    (images, labels, count), = image_batches.EvalBatches(source, len(source), SIZE)
    assert count == 14 and labels.tolist() == np.repeat(LABELS, (4, 3, 5, 2)).tolist()
    logits = net(mx.nd.array(images)).asnumpy()
    assert 0 < (logits.argmax(1) == labels).mean() < 1
    return logits, labels


# What a file is evaluated as.

@pytest.mark.parametrize("arguments", [
    [], ["--use-rec"], ["--rec-val", "{data}/rec/val.rec", "--data-dir", "nowhere"], ["--batch-size", "5"],
    ["-j", "0", "--model", "atac", "--mode", "imperative"]])
def test_the_authors_file_has_one_score_on_both_sources(files, data, expected, arguments):
    logits, labels = expected
    result = run(files, data, *AUTHORS, *[str(each).format(data=data) for each in arguments])
    found = record_of(result)
    assert (found["images"], found["counting"], found["skipped"]) == (14, "every image once", [])
    assert found["top1"] == (logits.argmax(1) == labels).mean()
    ranks = (logits > logits[np.arange(14), labels][:, None]).sum(axis=1)
    assert found["top5"] == (ranks < 5).mean()
    shares = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    assert found["loss"] == pytest.approx(-shares[np.arange(14), labels].mean(), rel=1e-4)
    assert [(row["class"], row["images"]) for row in found["classes"]] == list(zip(TITLES, (4, 3, 5, 2)))
    assert sum(row["right"] for row in found["classes"]) == round(14 * found["top1"])
    assert (found["model"], found["dataset"], found["label_mode"], found["input_size"], found["crop_ratio"]) \
        == ("atac_resnet50_v1b", "imagenet", None, SIZE, .875)
    assert found["arguments"] == {"classes": 1000, "act_layers": 2, "last_gamma": False, "reduction": 2,
                                  "inner_relu": True}
    assert "counted: every image once\n" in result.err and "imagenet: 14 validation images of " in result.err
    assert "after the shorter side was made 37" in result.err


def test_the_check_of_faster_forms_works_for_a_resnet_50(files, data, expected):
    result = run(files, data, *AUTHORS, fused="auto")
    assert record_of(result)["loss"] == pytest.approx(record_of(run(files, data, *AUTHORS))["loss"], rel=1e-4)
    form = "fused C++ operators inside 12 bottlenecks" if loader.available()[0] else "of 89 BatchNorms folded"
    assert form in result.err and "random images" in result.out


def test_the_padding_is_counted_as_the_authors_did(files, data, expected):
    logits, labels = expected
    result = run(files, data, *AUTHORS, "--count-padding", "--batch-size", "4")
    found = record_of(result)
    # 14 images in batches of 4 after 155 passes: batches 543 to 545 of an endless row of passes
    places = np.arange(543 * 4, 546 * 4) % 14
    assert found["images"] == 12 and found["counting"] == imagenet.PADDING
    assert found["top1"] == (logits.argmax(1) == labels)[places].mean()
    counted = np.bincount(labels[places], minlength=1000)[LABELS]
    assert [row["images"] for row in found["classes"]] == [count for count in counted if count]
    assert f"counted: {imagenet.PADDING}\n" in result.err


def test_gluoncvs_names_load(files, data):
    found = record_of(run(files, data, "--params", "gluoncv.params", "--model", "resnet50_v1b", "--dataset", "imagenet",
                          "--input-size", SIZE))
    assert found["images"] == 14 and found["arguments"] == {"classes": 1000, "last_gamma": False}
    found = record_of(run(files, data, "--params", "gluoncv.params", "--model", "ge", "--variant", "theta_minus",
                          "--dataset", "imagenet", "--input-size", 64))
    assert (found["model"], found["arguments"]["input_size"], found["input_size"]) == ("ge_resnet50_v1b", 64, 64)


def test_a_checkpoint_of_ours_says_itself_what_it_is(files, data):
    found = record_of(run(files, data, "--params", "own.params"))
    assert (found["model"], found["input_size"], found["crop_ratio"], found["images"]) == ("resnet50_v1b", SIZE, .8, 14)
    assert [row["class"] for row in found["classes"]] == TITLES
    backwards = record_of(run(files, data, "--params", "backwards.params"))  # the same net with other names of outputs
    assert [row["class"] for row in backwards["classes"]] == TITLES[::-1]
    assert [row["images"] for row in backwards["classes"]] == [2, 5, 3, 4]
    net = model.load_params(model.get_model("resnet50_v1b", classes=4), files / "own.params")
    source = image_sources.Folders(data / "val", CLASSES)
    for record, labels in ((found, source.labels), (backwards, 3 - source.labels)):
        (images, _, _), = image_batches.EvalBatches(source, 14, SIZE, .8)
        assert record["top1"] == (net(mx.nd.array(images)).asnumpy().argmax(1) == labels).mean()
    larger = record_of(run(files, data, "--params", "own.params", "--input-size", 64, "--crop-ratio", 1))
    assert (larger["input_size"], larger["crop_ratio"]) == (64, 1)


def test_the_manifest_says_what_the_authors_file_is(files, data, expected, tmp_path, monkeypatch):
    content = (files / "authors.params").read_bytes()
    (tmp_path / "atac_resnet50_v1b_official.params").write_bytes(content)
    manifest = json.loads((weights.SHIPPED / "manifest.json").read_text())
    entry, = [entry for entry in manifest["models"] if entry["name"] == "atac_resnet50_v1b_official"]
    entry["git_blob"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps({"models": [entry]}))
    entry_of, file_of = weights.pretrained_entry, weights.pretrained_file
    monkeypatch.setattr(weights, "pretrained_entry", lambda name, root=tmp_path: entry_of(name, tmp_path))
    monkeypatch.setattr(weights, "pretrained_file", lambda name: file_of(name, tmp_path))
    name = ["--pretrained", "atac_resnet50_v1b_official"]
    found = record_of(run(files, data, *name, "--input-size", SIZE))
    logits, labels = expected
    assert found["top1"] == (logits.argmax(1) == labels).mean()
    assert found["sha256"] == hashlib.sha256(content).hexdigest()
    refused(run(files, data, *name, "--act-layers", "4"), 1, "holds a net with act_layers=2, not 4")
    refused(run(files, data, *name, "--label-mode", "fine"), 1, "was trained on imagenet, which has no label mode")
    (tmp_path / "atac_resnet50_v1b_official.params").unlink()
    refused(run(files, data, *name), 1, "is missing", "scripts/download_params.sh atac_resnet50_v1b_official")


# Images that cannot be read.

def test_damaged_images_are_refused_or_left_out_and_named(files, data, tmp_path):
    written = imagenet_files.folder(tmp_path / "val", (4, 3, 5, 2), CLASSES)
    bad = tmp_path / "val" / list(written)[5]
    bad.write_bytes(bad.read_bytes()[:200])
    refused(run(files, tmp_path, "--params", "own.params"), 1, f"{bad}: ", "--damaged skip")
    result = run(files, tmp_path, "--params", "own.params", "--damaged", "skip")
    found = record_of(result)
    assert found["images"] == 13 and found["skipped"] == [str(bad)]
    assert [row["images"] for row in found["classes"]] == [4, 2, 5, 2]
    assert "counted: every image once, 1 damaged ones left out" in result.err


# What does not fit.

@pytest.mark.parametrize("arguments, status, parts", [
    ([*AUTHORS, "--label-mode", "fine"], 2, ["--label-mode is for cifar100, not for imagenet; leave it out"]),
    ([*AUTHORS, "--mirror", "x"], 2, ["--mirror is for cifar10 and cifar100, not for imagenet"]),
    ([*AUTHORS, "--rec-val-idx", "x"], 2, ["--rec-val-idx needs --rec-val"]),
    ([*AUTHORS, "--count-padding", "--damaged", "skip"], 2, ["exclude each other"]),
    ([*AUTHORS, "--crop-ratio", "0"], 2, ["0 is below 0.01"]),
    ([*AUTHORS, "--crop-ratio", "1.1"], 2, ["1.1 is above 1"]),
    ([*AUTHORS, "--input-size", "40"], 2, ["--input-size must be a multiple of 32", "40"]),
    ([*AUTHORS, "--blocks", "3"], 2, ["atac_resnet50_v1b has no argument 'blocks'"]),
    ([*AUTHORS, "--model", "atac_resnet20_v2"], 2, ["is for CIFAR's images"]),
    ([*AUTHORS, "--model", "resnet50"], 1, ["does not fit this net", "check the net's name and arguments"]),
    ([*AUTHORS, "--act-layers", "4"], 1, ["does not fit this net", "it lacks"]),
    ([*AUTHORS, "--classes", "10"], 1, ["does not fit this net"]),
    ([*AUTHORS, "--use-rec", "--rec-val", "none.rec"], 1, ["no record file none.rec"]),
    ([*AUTHORS, "--data-dir", "nowhere"], 1, ["there is no folder nowhere"]),
    (["--params", "authors.params", "--model", "atac_resnet50_v1b"], 1, ["holds weights only: name its --dataset"]),
    (["--params", "authors.params", "--dataset", "imagenet"], 1, ["holds weights only: name its net with --model"]),
    (["--params", "own.params", "--mirror", "x"], 2, ["--mirror is for cifar10 and cifar100, not for imagenet"]),
    (["--params", "own.params", "--dataset", "cifar10"], 1, ["was trained with --dataset imagenet, not cifar10"]),
    (["--params", "other.params"], 1, ["images of 1 class(es) that the net does not have, n01443537 first"]),
    (["--params", "unnamed.params"], 1, ["1,000 classes and the net 4, and no names to match them by"])])
def test_what_does_not_fit_is_one_sentence(files, data, arguments, status, parts):
    refused(run(files, data, *arguments), status, *parts)


def test_numbers_of_a_record_file_that_nobody_explains_are_outputs(files, data, tmp_path):
    contents = [path.read_bytes() for path in sorted((data / "val").glob("*/*"))]
    rec = imagenet_files.record_file(tmp_path / "val", contents[:6], [0, 1, 2, 3, 2, 1])
    found = record_of(run(files, data, "--params", "unnamed.params", "--rec-val", rec))
    assert [(row["class"], row["images"]) for row in found["classes"]] \
        == [("class 0", 1), ("class 1", 2), ("class 2", 2), ("class 3", 1)]
    (tmp_path / imagenet.NAMES_FILE).write_text("\n".join(reversed(CLASSES)))
    found = record_of(run(files, data, "--params", "own.params", "--rec-val", rec))
    assert [(row["class"], row["images"]) for row in found["classes"]] == list(zip(TITLES, (1, 2, 2, 1)))


# Pictures.

def test_a_picture_goes_the_way_of_a_validation_image(files, data, tmp_path, expected):
    logits, _ = expected
    path = sorted((data / "val").glob("*/*"))[0]
    with Image.open(path, formats=["JPEG"]) as picture:
        picture.save(tmp_path / "same.png")
    result = run(files, data, *AUTHORS, "--images", tmp_path / "same.png")
    assert result.status == 0, result.err
    found = json.loads(result.out)
    chances = np.exp(logits[0] - logits[0].max())
    chances /= chances.sum()
    best = np.argsort(-chances, kind="stable")[:5]
    assert found["probabilities"] == pytest.approx(chances[best], rel=1e-3)
    synsets = [imagenet.SYNSETS[label] for label in best]
    assert found["classes"] == [f"{synset} {imagenet.NAMES[synset]}" for synset in synsets]


def test_a_large_or_grey_picture_is_scaled_and_cropped(files, data, tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (90, 160, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels).convert("L").save(tmp_path / "grey.png")
    result = run(files, data, "--params", "own.params", "--images", tmp_path / "wide.png", tmp_path / "grey.png")
    assert result.status == 0, result.err
    for line in result.out.splitlines():
        assert sorted(json.loads(line)["classes"]) == TITLES  # a net of four classes names no fifth


# The names of the classes.

def test_every_official_class_has_a_name():
    assert len(imagenet.NAMES) == 1000 and tuple(imagenet.NAMES) == imagenet.SYNSETS
    assert all(name and name == name.strip() for name in imagenet.NAMES.values())
    assert (imagenet.NAMES["n01440764"], imagenet.NAMES["n02123045"], imagenet.NAMES["n15075141"]) \
        == ("tench", "tabby", "toilet tissue")


# Real images.

@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of ImageNet is not on this machine")
def test_real_images_at_full_size(files, tmp_path):
    for name in sorted(folder.name for folder in SAMPLE.iterdir())[::250]:
        (tmp_path / name).symlink_to(SAMPLE / name)
    result = run(files, tmp_path, *AUTHORS[:-2], "--batch-size", "2")
    found = record_of(result)
    assert (found["images"], found["input_size"], len(found["classes"])) == (4, 224, 4)
    assert np.isfinite(found["loss"])
