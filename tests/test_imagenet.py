"""engine.data.imagenet: what is found and refused, how batches are made, and that they are the authors' iterator's."""
import itertools
import logging
import math
import os
import shutil
import threading
from pathlib import Path

import imagenet_files as files
import mxnet as mx
import numpy as np
import pytest

from engine.data import __main__ as command_line
from engine.data import image_batches, image_sources, imagenet, images, prefetch
from engine.seeds import random_stream
from support.errors import InputError

SAMPLE = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "imagenet-sample"
SIDE = 24


def refusal(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def place(tmp_path):
    """Twelve images of three classes in folders."""
    files.folder(tmp_path / "images")
    return tmp_path


@pytest.fixture
def source(place):
    return image_sources.Folders(place / "images")


def as_records(source, path, **how):
    """A record file of the same images in the same order."""
    contents = [source.read(index) for index in range(len(source))]
    return files.record_file(path, contents, source.labels.tolist(), **how)


def train(source, batch_size=4, seed=3, **how):
    return image_batches.TrainBatches(source, batch_size, seed, **{"input_size": SIDE, **how})


def evaluate(source, batch_size=5, **how):
    return image_batches.EvalBatches(source, batch_size, **{"input_size": SIDE, **how})


def equal(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second) > 0
    for a, b in zip(first, second):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)


# --- Sources ---


def test_folders_are_classes_in_the_order_of_their_names(place, source):
    assert len(source) == 12 and source.class_names == files.CLASSES
    assert source.labels.dtype == np.int32 and source.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 5
    for index in range(12):
        path = Path(source.name(index))
        assert path.read_bytes() == source.read(index) and path.parent.name == files.CLASSES[source.labels[index]]


def test_other_files_and_unfinished_folders_are_left_alone(place, source):
    (place / "images" / files.CLASSES[0] / "notes.txt").write_text("x")
    (place / "images" / files.CLASSES[0] / ".hidden.JPEG").mkdir()
    (place / "images" / "n99999999.part").mkdir()
    (place / "images" / ".cache").mkdir()
    (place / "images" / "readme.md").write_text("x")
    (place / "images" / ".DS_Store").write_text("x")
    for copy in (f"{files.CLASSES[0]}/._x.JPEG", f"__MACOSX/{files.CLASSES[0]}/x.JPEG", "._x.JPEG"):
        (place / "images" / copy).parent.mkdir(parents=True, exist_ok=True)
        (place / "images" / copy).write_bytes(b"of macOS's archiver")
    (place / "images" / "rec").mkdir()
    (place / "images" / "rec" / "train.rec").write_text("x")
    again = image_sources.Folders(place / "images")
    assert again.sha256 == source.sha256 and again.files == source.files


def test_the_list_of_images_has_a_checksum(place, source):
    shutil.copytree(place / "images", place / "elsewhere")
    assert image_sources.Folders(place / "elsewhere").sha256 == source.sha256
    Path(source.name(0)).unlink()
    assert image_sources.Folders(place / "images").sha256 != source.sha256


def test_folders_that_are_none_are_refused_with_what_is_there(tmp_path):
    assert "no class folders" in refusal(image_sources.Folders, tmp_path)
    (tmp_path / "ILSVRC2012_val_00000001.JPEG").write_bytes(files.jpeg(0))
    assert "--val-labels FILE sorts validation images" in refusal(image_sources.Folders, tmp_path)
    assert "cannot read" in refusal(image_sources.Folders, tmp_path / "absent")
    (tmp_path / "b" / "n01440764").mkdir(parents=True)
    assert "no .jpeg" in refusal(image_sources.Folders, tmp_path / "b")
    files.folder(tmp_path / "c")
    assert "none of the 2 classes" in refusal(image_sources.Folders, tmp_path / "c", files.CLASSES[:2])


def test_what_is_named_like_an_image_and_cannot_be_read_is_a_damaged_image(source, caplog):
    inside = source.directory / files.CLASSES[1]
    (inside / "a.JPEG").symlink_to(inside / "gone.JPEG")
    os.mkfifo(inside / "b.jpg")
    made = image_sources.Folders(source.directory)
    assert len(made) == 14
    message = refusal(list, evaluate(made))
    assert f"{inside / 'a.JPEG'}: it cannot be read: No such file or directory" in message
    batches = evaluate(made, damaged="skip")
    assert sum(count for _, _, count in batches) == 12
    assert batches.skipped == [str(inside / "a.JPEG"), str(inside / "b.jpg")] and "left out" in caplog.text
    (source.directory / "n99999999").symlink_to(inside / "gone")  # or the labels would be others than its owner means
    assert "n99999999 is a broken link" in refusal(image_sources.Folders, source.directory)


def test_images_beside_class_folders_are_refused(tmp_path):
    files.folder(tmp_path / "my data" / "val")
    (tmp_path / "my data" / "val" / "x.JPEG").write_bytes(files.jpeg(0))
    message = refusal(imagenet.load, tmp_path / "my data", need=("val",))
    assert "1 image(s) beside its class folders, x.JPEG first" in message
    assert "scripts/prepare_imagenet.sh --data-dir DIR" in message and "with --val-labels FILE" in message


def test_class_folders_at_another_depth_are_found_and_said(tmp_path):
    root = tmp_path / "imagenet"
    files.folder(root / "train" / "train")
    files.folder(root / "val")
    assert f"not in {root}/train but in {root}/train/train, {files.CLASSES[0]} first" in refusal(imagenet.load, root)
    assert f"give --data-dir {root}" in refusal(imagenet.load, tmp_path)
    files.folder(tmp_path / "b", (1, 1))
    files.folder(tmp_path / "b" / files.CLASSES[2], (2,), ("images",))
    assert f"{tmp_path}/b/{files.CLASSES[2]} has images only in folders of its own" in refusal(
        image_sources.Folders, tmp_path / "b")


@pytest.mark.parametrize("name", [" before", "two\nlines", "\ufeffmark", "\udce9t\udce9"])
def test_a_class_folder_whose_name_is_no_line_is_refused(tmp_path, name):
    files.folder(tmp_path, (1, 1), ("a name", name))
    assert f"class folder {ascii(name)}" in refusal(imagenet.load, tmp_path, need=("val",))


def test_record_files_have_the_same_images_and_labels(place, source):
    made = image_sources.Records(as_records(source, place / "a", keys=[90 - index for index in range(12)]))
    assert made.labels.dtype == np.int32 and made.labels.tolist() == source.labels.tolist()
    assert [made.read(index) for index in range(12)] == [source.read(index) for index in range(12)]
    assert made.name(2) == f"{place / 'a.rec'}, record 88" and made.class_names is None


@pytest.mark.parametrize("label", [3, -1, 2.5, 1000, float("inf")])
def test_a_label_that_is_no_class_is_refused(tmp_path, label):
    rec = files.record_file(tmp_path / "a", [files.jpeg(0)] * 3, [0, label, 1])
    if label == 3:
        (tmp_path / "synset.txt").write_text("\n".join(files.CLASSES))
    assert "record 1 has the label" in refusal(image_sources.Records, rec)


def test_a_record_whose_label_is_not_a_number_is_damaged(tmp_path):
    made = image_sources.Records(files.record_file(tmp_path / "a", [files.jpeg(0)] * 3, [0, float("nan"), 1]))
    assert made.labels.tolist() == [0, -1, 1]
    assert "record 1: the record's label is not a number" in refusal(list, evaluate(made, 3))
    assert [count for _, _, count in evaluate(made, 3, damaged="skip")] == [2]
    rec = files.record_file(tmp_path / "b", [files.jpeg(0)], [float("nan")])
    assert "no record that can be read" in refusal(image_sources.Records, rec)


def test_labels_come_from_the_list_beside_the_records_and_are_compared(place, source, caplog):
    rec = as_records(source, place / "a")
    lines = [f"{index}\t{label:f}\tx.JPEG\n" for index, label in enumerate(source.labels.tolist())]
    (place / "a.lst").write_text("".join(lines) + "99\t0.0\tleft-out.JPEG\n")
    assert image_sources.Records(rec).labels.tolist() == source.labels.tolist()
    (place / "a.lst").write_text("".join(lines).replace("2.000000", "1.000000"))
    made = image_sources.Records(rec)
    assert made.labels.max() == 1 and made.read(0)
    assert "the .lst beside" in refusal(made.read, 11)
    (place / "a.lst").write_text("".join(lines[:5]))
    with caplog.at_level(logging.WARNING):
        assert image_sources.Records(rec).labels.tolist() == source.labels.tolist()
    assert "is not the list" in caplog.text


# --- Loading ---


def official_layout(root):
    files.folder(root / "train", (3, 3, 3))
    files.folder(root / "val", (2, 2, 2), seed=50)
    return root


def test_folders_are_loaded_and_what_is_not_official_is_said(tmp_path):
    data = imagenet.load(official_layout(tmp_path))
    assert len(data.train) == 9 and len(data.val) == 6 and data.class_names == files.CLASSES
    for words in ("9 training images (officially 1,281,167)", "6 validation images", "3 classes (officially 1,000)"):
        assert words in data.variant
    assert data.provenance["official"] is False and len(data.provenance["sha256"]) == 64
    assert data.provenance["splits"]["val"] == {"source": "folders", "images": 6, "sha256": data.val.sha256}
    assert imagenet.load(tmp_path, need=("val",)).train is None


def test_validation_images_have_the_labels_of_the_training_folders(tmp_path):
    official_layout(tmp_path)
    shutil.rmtree(tmp_path / "val" / files.CLASSES[0])
    for need in (("train", "val"), ("val",)):
        data = imagenet.load(tmp_path, need=need)
        assert data.val.labels.tolist() == [1, 1, 2, 2] and "1 of 3 classes without an image in val" in data.variant
    (tmp_path / "val" / "strange").mkdir()
    assert "none of the 3 classes, strange" in refusal(imagenet.load, tmp_path)


def test_without_training_images_official_classes_keep_their_official_labels(tmp_path):
    files.folder(tmp_path / "val", (1, 2), ("n01443537", "n15075141"))
    data = imagenet.load(tmp_path, need=("val",))
    assert data.val.labels.tolist() == [1, 999, 999] and data.class_names == imagenet.SYNSETS
    (tmp_path / "val" / "mine").mkdir()
    files.folder(tmp_path / "val", (1,), ("mine",))
    assert imagenet.load(tmp_path, need=("val",)).class_names == ("mine", "n01443537", "n15075141")
    (tmp_path / "val" / "mine" / "mine_0.JPEG").unlink()
    (tmp_path / "val" / "mine").rmdir()


def test_class_folders_alone_serve_as_one_split(tmp_path):
    files.folder(tmp_path)
    assert len(imagenet.load(tmp_path, need=("train",)).train) == len(imagenet.load(tmp_path, need=("val",)).val) == 12
    assert f"others into {tmp_path / 'val'}" in refusal(imagenet.load, tmp_path)


def test_training_images_given_as_the_data_set_are_noticed(tmp_path, monkeypatch):
    root = official_layout(tmp_path)
    for split in ("train", "val"):
        assert refusal(imagenet.load, root / split).endswith(f"--data-dir {root}")
    monkeypatch.chdir(root / "train")
    assert refusal(imagenet.load, ".").endswith(f"--data-dir {root}")
    assert "from a folder named train" in imagenet.load(".", need=("val",)).variant
    assert "from a folder" not in imagenet.load(root / "val", need=("val",)).variant


@pytest.mark.parametrize("link", [
    lambda train, val: val.symlink_to(train),
    lambda train, val: (val.mkdir(), *((val / name).symlink_to(train / name) for name in files.CLASSES[1:])),
    lambda train, val: shutil.copytree(train, val, copy_function=os.link)], ids=["split", "classes", "images"])
def test_the_same_files_are_not_trained_and_validated_on(tmp_path, link):
    files.folder(tmp_path / "train")
    link(tmp_path / "train", tmp_path / "val")
    assert f"{tmp_path / 'val'}/n01" in refusal(imagenet.load, tmp_path)
    shutil.rmtree(tmp_path / "val") if not (tmp_path / "val").is_symlink() else (tmp_path / "val").unlink()
    shutil.copytree(tmp_path / "train", tmp_path / "val")  # other files with the same names
    assert len(imagenet.load(tmp_path).val) == 12


def test_the_same_records_are_not_trained_and_validated_on(tmp_path):
    rec = files.record_file(tmp_path / "a", [files.jpeg(number) for number in range(6)])
    assert "a.rec would be both trained on and validated on" in refusal(imagenet.load, rec_train=rec, rec_val=rec)
    lines = rec.with_suffix(".idx").read_text().splitlines(keepends=True)
    for name, part in (("train", lines[:4]), ("val", lines[4:])):
        (tmp_path / f"{name}.idx").write_text("".join(part))
    data = imagenet.load(rec_train=rec, rec_train_idx=tmp_path / "train.idx", rec_val=rec,
                         rec_val_idx=tmp_path / "val.idx")
    assert (len(data.train), len(data.val)) == (4, 2)


def test_a_folder_with_one_record_file_alone_has_no_class_named_rec(tmp_path):
    rec = tmp_path / "rec"
    rec.mkdir()
    files.record_file(rec / "val", [files.jpeg(0)] * 3)
    assert len(imagenet.load(tmp_path, need=("val",)).val) == 3
    assert f"there is no {rec / 'train.rec'}" in refusal(imagenet.load, tmp_path)
    files.folder(tmp_path / "train")
    assert f"there is no {tmp_path / 'val'}" in refusal(imagenet.load, tmp_path)
    assert "--use-rec" in refusal(imagenet.load, tmp_path)


def test_record_files_are_found_by_name_and_in_their_folder(tmp_path):
    data = imagenet.load(official_layout(tmp_path / "a"))
    (tmp_path / "b" / "rec").mkdir(parents=True)
    for split in ("train", "val"):
        as_records(getattr(data, split), tmp_path / "b" / "rec" / split)
    found = imagenet.load(tmp_path / "b", use_rec=True)
    assert found.val.labels.tolist() == data.val.labels.tolist()
    assert found.class_names == ("class 0", "class 1", "class 2")
    assert found.provenance["splits"]["train"]["source"] == "records"
    assert imagenet.load(tmp_path / "b").provenance == found.provenance  # there is nothing but record files
    (tmp_path / "b" / "rec" / "synset.txt").write_text("\n".join(files.CLASSES) + "\n")
    assert imagenet.load(tmp_path / "b", use_rec=True).class_names == files.CLASSES
    shutil.copytree(tmp_path / "b" / "rec", tmp_path / "c")
    assert len(imagenet.load(tmp_path / "c", use_rec=True).train) == 9
    named = imagenet.load(tmp_path / "absent", True, rec_val=tmp_path / "c" / "val.rec",
                          rec_val_idx=str(tmp_path / "b" / "rec" / "val.idx"), need=("val",))
    assert len(named.val) == 6
    (tmp_path / "c" / "synset.txt").write_text("a\nb\nc\n")
    assert "different classes" in refusal(imagenet.load, tmp_path / "b", True, rec_val=tmp_path / "c" / "val.rec")


@pytest.mark.parametrize("content, words", [("a\na\n", "different class name"), ("", "different class name"),
                                            ("a\nb\n", "labels of 2 classes")])
def test_class_names_that_do_not_fit_are_refused(place, source, content, words):
    (place / "synset.txt").write_text(content)
    assert words in refusal(image_sources.Records, as_records(source, place / "a"))


def test_what_is_absent_is_said_with_what_to_do(tmp_path):
    assert "--data-dir" in refusal(imagenet.load, tmp_path / "absent")
    assert "no class folders" in refusal(imagenet.load, tmp_path)
    assert "prepare_imagenet.sh" in refusal(imagenet.load, tmp_path, use_rec=True)
    assert "--rec-val" in refusal(imagenet.load, tmp_path, rec_val=tmp_path / "x.rec", need=("val",))
    files.folder(tmp_path / "val")
    assert f"there is no {tmp_path / 'train'}" in refusal(imagenet.load, tmp_path)
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(b"")
    shutil.rmtree(tmp_path / "val")
    assert "official archives" in refusal(imagenet.load, tmp_path)


def test_the_official_classes_are_a_thousand_sorted_ids():
    assert len(imagenet.SYNSETS) == 1000 and list(imagenet.SYNSETS) == sorted(set(imagenet.SYNSETS))


def test_official_counts_are_recognised(tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet, "OFFICIAL_COUNTS", {"train": 9, "val": 6})
    monkeypatch.setattr(imagenet, "SYNSETS", files.CLASSES)
    data = imagenet.load(official_layout(tmp_path))
    assert data.variant == "official counts" and data.provenance["official"] is True


# --- Training batches ---


def test_a_batch_has_the_shape_type_and_range_it_should(source):
    seen = []
    for pixels, labels in train(source).epoch(0):
        assert pixels.shape == (4, 3, SIDE, SIDE) and pixels.dtype == np.float32
        assert labels.shape == (4,) and labels.dtype == np.int32
        assert -3 < pixels.min() < 0 < pixels.max() < 3.2
        seen += labels.tolist()
    assert train(source).steps == 3 and sorted(seen) == source.labels.tolist()


def test_a_batch_is_a_function_of_seed_epoch_and_step(source):
    reference = list(train(source).epoch(5))
    equal(reference, train(source).epoch(5))
    equal(reference[2:], train(source).epoch(5, start=2))
    for other in (train(source).epoch(6), train(source, seed=4).epoch(5)):
        assert not np.array_equal(next(other)[0], reference[0][0])


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_do_not_change_a_batch(source, workers, monkeypatch):
    monkeypatch.setattr(prefetch, "usable_cores", lambda: 8)
    monkeypatch.setattr(image_batches, "CHUNK", 3)
    equal(train(source).epoch(1), train(source).epoch(1, workers=workers))
    equal(evaluate(source), evaluate(source, workers=workers))


def test_parts_together_are_the_batch_of_one(source):
    whole = list(train(source, 6).epoch(1))
    parts = [list(train(source, 6, part=(rank, 3)).epoch(1)) for rank in range(3)]
    equal(whole, [tuple(np.concatenate(pieces) for pieces in zip(*step)) for step in zip(*parts)])


def test_both_sources_give_the_same_batches(place, source):
    made = image_sources.Records(as_records(source, place / "a"))
    equal(train(source).epoch(2), train(made).epoch(2, workers=2))
    equal(evaluate(source), evaluate(made))


def test_the_epochs_threads_end_with_it(source):
    before = threading.active_count()
    batches = train(source).epoch(0, workers=2)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_without_jitter_and_lighting_a_batch_is_a_crop(tmp_path):
    folder = tmp_path / "images" / "n01440764"
    folder.mkdir(parents=True)
    flat = np.full((40, 60, 3), 128, np.uint8)
    flat[:, 30:] = 64
    images.require()
    (folder / "a.png").write_bytes(images.cv2.imencode(".png", flat)[1].tobytes())
    source = image_sources.Folders(tmp_path / "images")
    low, high = ((value - np.array(image_batches.MEAN)) / image_batches.STD for value in (64, 128))
    plain = np.concatenate([next(train(source, 1, jitter=0, lighting=0).epoch(epoch))[0] for epoch in range(30)])
    for channel in range(3):
        values = plain[:, channel]
        assert np.isclose(values.min(), low[channel], atol=1e-5) and np.isclose(values.max(), high[channel], atol=1e-5)
    both = plain[(np.ptp(plain, axis=(1, 2, 3)) > 0)]
    mirrored = both[:, 0, 0, 0] < both[:, 0, 0, -1]
    assert 0 < mirrored.sum() < len(mirrored)
    lit = np.concatenate([next(train(source, 1, jitter=0).epoch(epoch))[0] for epoch in range(30)])
    noise = lit - plain
    assert np.abs(noise - noise[:, :, :1, :1]).max() < 1e-5  # of one colour for an image
    assert 0 < np.abs(noise).max() < .1 * 3.5 * 60 / 57


def test_colour_noise_has_the_deviation_of_the_principal_components(source):
    batches = train(source, 12, jitter=0)
    plain = train(source, 12, jitter=0, lighting=0)
    noise = np.concatenate([(next(batches.epoch(epoch))[0] - next(plain.epoch(epoch))[0])[:, :, 0, 0]
                            for epoch in range(60)]) * image_batches.STD
    vectors, values = np.array(image_batches.EIGENVECTORS), .1 * np.array(image_batches.EIGENVALUES)
    np.testing.assert_allclose(np.sqrt((noise ** 2).mean(axis=0)), np.sqrt(((vectors * values) ** 2).sum(axis=1)),
                               rtol=.12)


def test_random_boxes_have_the_area_the_shape_and_the_place_they_should():
    stream = np.random.default_rng(0)
    height, width = 300, 400
    boxes = np.array([image_batches.random_box(stream.random(22), .08, height, width) for _ in range(4000)])
    y, x, h, w = boxes.T
    assert (y >= 0).all() and (x >= 0).all() and (y + h <= height).all() and (x + w <= width).all()
    area, ratio = h * w / (height * width), w / h
    assert .078 < area.min() < .1 and .95 < area.max() <= 1 and .74 < ratio.min() < .78 and 1.3 < ratio.max() < 1.35
    assert (y + h == height).any() and (x == 0).any() and abs(np.log(ratio[area < .4]).mean()) < .02
    # Small boxes always fit, so below some area their share of the draws is even.
    counts = np.histogram(area, bins=[.1, .2, .3, .4])[0]
    assert counts.min() > .85 * counts.max()


def test_where_no_box_fits_it_is_the_largest_central_one():
    even = np.random.default_rng(0).random(22)
    assert image_batches.random_box(even, .9, 100, 1000) == (0, 433, 100, 133)
    assert image_batches.random_box(even, .9, 1000, 100) == (433, 0, 133, 100)
    assert image_batches.random_box(even, .08, 1, 1) == (0, 0, 1, 1)


def test_a_batch_larger_than_the_source_is_refused(source):
    assert "does not fit 12" in refusal(train, source, 13)


# --- Evaluation batches ---


def test_every_image_is_evaluated_once(source):
    batches = evaluate(source)
    assert len(batches) == 3
    counts, labels = [], []
    for pixels, truth, count in batches:
        assert pixels.shape == (5, 3, SIDE, SIDE) and truth.shape == (5,)
        counts.append(count)
        labels += truth[:count].tolist()
    assert counts == [5, 5, 2] and labels == source.labels.tolist()


def test_parts_share_the_images_out(source):
    labels = []
    for rank in range(5):
        for _, truth, count in evaluate(source, 2, part=(rank, 5)):
            labels += truth[:count].tolist()
    assert labels == source.labels.tolist()
    assert "shared by 13" in refusal(evaluate, source, part=(0, 13))


def iterator(rec, batch_size, side, resize):
    values = {f"{name}_{channel}": value for name, numbers in (("mean", image_batches.MEAN), ("std", image_batches.STD))
              for channel, value in zip("rgb", numbers)}
    return mx.io.ImageRecordIter(
        path_imgrec=str(rec), path_imgidx=str(rec.with_suffix(".idx")), preprocess_threads=1, shuffle=False,
        batch_size=batch_size, data_shape=(3, side, side), resize=resize, verbose=False, **values)


def test_evaluation_gives_the_pixels_of_the_authors_iterator(place, source):
    rec = as_records(source, place / "a")
    for side, ratio in ((SIDE, .875), (30, .8), (SIDE, 1)):
        theirs = next(iterator(rec, 12, side, math.ceil(side / ratio))).data[0].asnumpy()
        ours, _, _ = next(iter(evaluate(image_sources.Records(rec), 12, input_size=side, crop_ratio=ratio)))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("batch_size", [4, 5, 7])
def test_counted_padding_is_that_of_the_authors_iterator_in_every_pass(place, source, batch_size):
    rec = as_records(source, place / "a")
    theirs = iterator(rec, batch_size, SIDE, 28)
    for passes in range(6):
        wanted = [batch.label[0].asnumpy().astype(int).tolist() for batch in theirs]
        theirs.reset()
        batches = evaluate(source, batch_size, count_padding=True, passes=passes)
        found = [(labels.tolist(), count) for _, labels, count in batches]
        assert found == [(labels, batch_size) for labels in wanted] and len(batches) == len(wanted)


def test_the_released_score_is_over_49920_images(source, monkeypatch):
    class Many(imagenet.Source):
        labels = np.zeros(50_000, np.int32)

    assert len(evaluate(Many(), 256)) * 256 == 50_176
    assert len(evaluate(Many(), 256, count_padding=True)) * 256 == 49_920
    assert len(evaluate(Many(), 256, count_padding=True, passes=0)) * 256 == 50_176


def test_a_batch_so_large_that_a_pass_is_empty_is_refused(source):
    assert "nothing left" in refusal(evaluate, source, 1000, count_padding=True, passes=1)


# --- Damaged images ---


def damage(source, index, keep=200):
    path = Path(source.name(index))
    path.write_bytes(path.read_bytes()[:keep])
    return str(path)


def test_a_damaged_image_is_refused_by_its_name(source):
    name = damage(source, 6)
    for workers in (0, 2):
        for batches in (train(source).epoch(0, workers=workers), evaluate(source, workers=workers)):
            message = refusal(list, batches)
            assert message.startswith(f"{name}: ") and "--damaged skip" in message


def test_skipped_images_are_left_out_of_evaluation_and_named(source):
    names = [damage(source, 6), damage(source, 11, 0), damage(source, 2)]
    batches = evaluate(source, damaged="skip", workers=2)
    results = list(batches)
    assert [count for _, _, count in results] == [4, 4, 1]
    assert sum((truth[:count].tolist() for _, truth, count in results), []) == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert all(np.isfinite(pixels).all() and len(pixels) == 5 for pixels, _, _ in results)
    assert batches.skipped == [names[2], names[0], names[1]]
    list(batches)
    assert len(batches.skipped) == 3  # an image counts once, however often it is met


def test_a_batch_of_damaged_images_alone_counts_none(source):
    for index in range(5, 10):
        damage(source, index)
    assert [count for _, _, count in evaluate(source, damaged="skip")] == [5, 0, 2]


def test_in_training_the_next_sound_image_takes_the_place(source):
    order = random_stream(3, 0, 1).permutation(12)
    sound = dict(enumerate(itertools.chain.from_iterable(pixels for pixels, _ in train(source).epoch(1))))
    names = sorted(damage(source, order[place]) for place in (4, 5, 11))
    for workers in (0, 3):
        batches = train(source, damaged="skip")
        steps = list(batches.epoch(1, workers=workers))
        pixels = np.concatenate([step[0] for step in steps])
        labels = np.concatenate([step[1] for step in steps])
        taken = [0, 1, 2, 3, 6, 6, 6, 7, 8, 9, 10, 0]
        assert labels.tolist() == source.labels[order[taken]].tolist()
        for place in (0, 3, 6, 10):
            np.testing.assert_array_equal(pixels[place], sound[place])
        assert sorted(batches.skipped) == names
    assert steps[1][0].shape == (4, 3, SIDE, SIDE)
    equal(train(source, damaged="skip").epoch(1, start=1), steps[1:])


def test_a_source_without_a_sound_image_is_refused(source):
    for index in range(12):
        damage(source, index)
    assert "not damaged" in refusal(list, train(source, damaged="skip").epoch(0))


def test_a_file_that_vanishes_is_damaged(source):
    Path(source.name(3)).unlink()
    assert "cannot be read" in refusal(list, evaluate(source))
    assert sum(count for _, _, count in evaluate(source, damaged="skip")) == 11


def test_a_record_file_that_was_cut_is_refused_at_once_or_its_end_skipped(place, source):
    rec = as_records(source, place / "a")
    whole = image_sources.Records(rec)
    rec.write_bytes(rec.read_bytes()[:len(rec.read_bytes()) * 3 // 4])
    cut = image_sources.Records(rec)
    for made in (train, evaluate):
        message = refusal(made, cut)
        assert "records are missing" in message and str(rec) in message
    batches = evaluate(cut, damaged="skip")
    left = sum(count for _, _, count in batches)
    assert 6 < left < 12 and len(batches.skipped) == 12 - left
    assert batches.skipped[0] == whole.name(left)
    assert len(list(train(cut, damaged="skip").epoch(0))) == 3


def test_a_record_file_that_goes_on_behind_its_index_is_said(place, source, caplog):
    rec = as_records(source, place / "a")
    index = rec.with_suffix(".idx")
    lines = index.read_text().splitlines(keepends=True)
    for content in ("".join(lines[:7]), "".join(lines[:8])[:-2]):  # at the end of a line, and within an offset
        index.write_text(content)
        message = refusal(evaluate, image_sources.Records(rec))
        assert f"{rec} has " in message and f"records in {index}, which was cut" in message
    index.write_text("".join(lines[:7]))
    assert sum(count for _, _, count in evaluate(image_sources.Records(rec), damaged="skip")) == 7
    assert "bytes after the last of the" in caplog.text


def test_records_with_several_labels_are_refused_for_that(tmp_path):
    rec = files.record_file(tmp_path / "a", [files.jpeg(0)] * 3, [[0., 1., 2.]] * 3)
    assert "(record 0: the record has 3 labels instead of one)" in refusal(image_sources.Records, rec)


def test_damage_inside_a_record_file_is_named_by_its_record(place, source):
    rec = as_records(source, place / "a")
    offsets = image_sources.Records(rec)._records.offsets
    content = bytearray(rec.read_bytes())
    content[offsets[4]] ^= 255
    content[offsets[7] + 60:offsets[8]] = bytes(int(offsets[8] - offsets[7]) - 60)
    rec.write_bytes(content)
    damaged = image_sources.Records(rec)
    assert damaged.labels[4] == -1
    assert f"{rec}, record 4: no record begins at byte" in refusal(list, evaluate(damaged))
    batches = evaluate(damaged, damaged="skip")
    assert sum(count for _, _, count in batches) == 10
    assert batches.skipped == [f"{rec}, record 4", f"{rec}, record 7"]
    train_batches = train(damaged, 12, damaged="skip")
    assert np.isin(next(train_batches.epoch(0))[1], (0, 1, 2)).all()


# --- The real sample, and the command ---


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the shared ImageNet sample is not here")
def test_real_images_are_the_same_in_both_sources_and_in_the_authors_iterator(tmp_path):
    from engine.data import prepare_imagenet

    chosen = tmp_path / "images"
    chosen.mkdir()
    for name in imagenet.SYNSETS[::25]:
        (chosen / name).symlink_to(SAMPLE / name)
    assert image_sources.Folders(SAMPLE).class_names == imagenet.SYNSETS
    assert prepare_imagenet.main(["--data-dir", str(tmp_path), "--val", str(chosen), "--splits", "val"]) == 0
    by_folder = imagenet.load(chosen, need=("val",))
    by_record = imagenet.load(tmp_path, use_rec=True, need=("val",))
    assert by_folder.class_names == by_record.class_names == imagenet.SYNSETS
    assert by_folder.val.labels.tolist() == list(range(0, 1000, 25))

    theirs = next(iterator(tmp_path / "rec" / "val.rec", 40, 224, 256))
    recorded, labels, count = next(iter(image_batches.EvalBatches(by_record.val, 40)))
    assert count == 40 and labels.tolist() == theirs.label[0].asnumpy().tolist()
    np.testing.assert_allclose(recorded, theirs.data[0].asnumpy(), atol=1e-5)
    pixels, truth, _ = next(iter(image_batches.EvalBatches(by_folder.val, 40)))
    order = np.argsort(labels)
    np.testing.assert_array_equal(pixels, recorded[order])
    np.testing.assert_array_equal(truth, labels[order])


def test_the_command_shows_what_is_there(tmp_path, capsys):
    official_layout(tmp_path)
    command = ["--dataset", "imagenet", "--data-dir"]
    command_line.main([*command, str(tmp_path), "--seconds", ".05", "--input-size", "16"])
    shown = capsys.readouterr().out
    for words in ("train: 9 images of 3 classes", "val: 6 images", "images/s", "officially 1,281,167"):
        assert words in shown
    with pytest.raises(InputError, match="^there is no folder"):
        command_line.main([*command, str(tmp_path / "absent")])
