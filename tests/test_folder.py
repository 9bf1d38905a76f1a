"""--dataset folder: a user's own images, trained on and evaluated by nets of 32 pixels and by a ResNet-50."""
import json

import numpy as np
import pytest
import tiny
from PIL import Image

import evaluate
import train_cifar
import train_imagenet
from engine.data import in_memory, sets
from engine.data.dataset import Known

CLASSES = ("apple", "pear tree", "zebra")
SHORT = ["--gpus", "", "--num-epochs", "1", "--batch-size", "4", "--seed", "3"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Eight training and five validation images of each class, of different sizes and kinds."""
    root, random = tmp_path_factory.mktemp("own"), np.random.RandomState(0)
    for split, count in (("train", 8), ("val", 5)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.randint(80 * label, 80 * label + 90, (40 + 3 * index, 50 - index, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.{'png' if index % 2 else 'jpg'}")
    return root


@pytest.fixture(scope="module")
def run(own, tmp_path_factory):
    """The folder of a short run of a net of 32 pixels."""
    folder = tmp_path_factory.mktemp("run")
    result = tiny.call(train_cifar.main, *SHORT, *tiny.TINY_NET, "--dataset", "folder", "--data-dir", own, "--save-dir",
                       folder, folder=folder)
    assert result.status == 0, result.err
    assert "24 training and 15 validation images in 3 classes, 32x32 pixels" in result.err
    assert "data own images" in result.err
    return folder


def flags(own):
    return train_cifar.parse(["--dataset", "folder", "--data-dir", str(own)])[1]


def score(*words, folder="."):
    result = tiny.call(evaluate.main, *words, "--gpus", "", "--json", folder=folder)
    assert result.status == 0, result.err
    return json.loads(result.out)


def test_the_middle_square_of_every_image_is_trained_on(own):
    experiment = tiny.experiment(dataset="folder", recipe=tiny.recipe())
    training = sets.of("folder", flags(own), Known.of(experiment)).training(experiment, 4, "cpu")
    split = training.batches.split
    assert split.images.shape == (24, 3, 32, 32) and training.origin.class_names == CLASSES
    assert split.labels.tolist() == 8 * [0] + 8 * [1] + 8 * [2] and training.scored_on == "validation"
    with Image.open(own / "train" / "pear tree" / "1.png") as picture:  # 43 high and 49 wide: 3 pixels left and right
        square = picture.resize((32, 32), Image.BICUBIC, box=(3, 0, 46, 43))
    assert (split.images[8 + 1] == np.asarray(square).transpose(2, 0, 1)).all()
    assert in_memory.digest(split, training.score_batches.split) == training.origin.provenance["sha256"]


def test_a_run_has_an_output_a_class_is_resumed_and_is_evaluated_to_the_same_score(own, run, tmp_path):
    result = json.loads((run / "result.json").read_text())
    assert result["experiment"]["dataset"] == "folder" and result["experiment"]["arguments"]["classes"] == 3
    assert result["chosen_on"] == "validation" and result["data"]["train_images"] == 24
    found = score("--params", run / "last.params", "--data-dir", own)
    assert (found["top1"], found["images"]) == (result["last"]["accuracy"], 15)
    assert [row["class"] for row in found["classes"]] == list(CLASSES)
    again = tiny.call(train_cifar.main, "--resume", run, "--num-epochs", "1", "--data-dir", own, "--gpus", "")
    assert again.status == 0, again.err


def test_a_file_tells_classes_by_their_names(own, run, tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "zebra").symlink_to(own / "val" / "zebra")
    found = score("--params", run / "last.params", "--data-dir", tmp_path)
    assert {row["class"]: row["images"] for row in found["classes"]} == {"apple": 0, "pear tree": 0, "zebra": 5}
    (tmp_path / "val" / "giraffe").symlink_to(own / "val" / "apple")
    result = tiny.call(evaluate.main, "--params", run / "last.params", "--data-dir", tmp_path, "--gpus", "")
    tiny.one_sentence(result, 1, "has images of 1 class(es) that the net does not have, giraffe first")


def test_pictures_are_classified_by_its_classes(own, run):
    picture = own / "val" / "apple" / "0.jpg"
    result = tiny.call(evaluate.main, "--params", run / "last.params", "--images", picture, "--gpus", "")
    assert result.status == 0 and all(name in result.out for name in CLASSES)


@pytest.mark.parametrize("words, parts", [
    ([], ["--dataset folder takes --data-dir DIR with DIR/train and DIR/val"]),
    (["--data-dir", "{own}/train"], ["there is no folder {own}/train/val: --dataset folder takes"]),
    (["--data-dir", "{own}", "--classes", "2"], ["--classes 2 is too few for the 3 labels"]),
    (["--data-dir", "{own}", "--model", "atac_resnet50_v1b"], ["is for images of 224 x 224 pixels"])])
def test_what_cannot_be_is_one_sentence(own, tmp_path, words, parts):
    result = tiny.call(train_cifar.main, *SHORT, "--dataset", "folder", *(word.format(own=own) for word in words),
                       folder=tmp_path)
    tiny.one_sentence(result, 2, *(part.format(own=own) for part in parts))
    assert not list(tmp_path.iterdir())


def test_a_damaged_image_is_named(own, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "data" / split / "a").mkdir(parents=True)
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "data" / split / "a" / "good.png")
    bad = tmp_path / "data" / "train" / "a" / "bad.png"
    bad.write_bytes(b"no picture")
    result = tiny.call(train_cifar.main, *SHORT, *tiny.TINY_NET, "--batch-size", "1", "--dataset", "folder",
                       "--data-dir", tmp_path / "data", folder=tmp_path)
    tiny.one_sentence(result, 1, f"{bad}: ", "replace this image")


def test_a_resnet_50_trains_on_it_and_is_evaluated(own, tmp_path):
    result = tiny.call(train_imagenet.main, *SHORT, "--model", "resnet50_v1b", "--dataset", "folder", "--data-dir", own,
                       "--input-size", "32", "--recipe", "scaled", "--save-dir", "run", folder=tmp_path)
    assert result.status == 0, result.err
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert stored["experiment"]["arguments"]["classes"] == 3 and stored["experiment"]["input_size"] == 32
    found = score("--params", tmp_path / "run" / "last.params", "--data-dir", own)
    assert (found["images"], found["input_size"], found["dataset"]) == (15, 32, "folder")
    assert found["top1"] == pytest.approx(stored["last"]["accuracy"])
