"""engine/data/cifar.py: what is loaded, what is refused, how batches are made."""

import dataclasses
import gzip
import hashlib
import json
import lzma
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import cifar_files
import http_files
import numpy as np
import pytest

from engine.data import __main__ as command_line
from engine.data import cifar, in_memory
from engine.data import cifar_files as official
from support.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared" / "data"


def refusal(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def random_split(count, seed=0, classes=10):
    labels = np.random.RandomState(seed).randint(0, classes, count).astype(np.int32)
    return in_memory.Split(cifar_files.random_images(count, seed), labels)


# --- Loading: where and in which form ---


def test_binary_files(tmp_path):
    written = cifar_files.cifar10_folder(tmp_path, train=(40, 30), test=20)
    data = cifar.load("cifar10", tmp_path)
    first, second, test = (written[f"{name}.bin"] for name in ("data_batch_1", "data_batch_2", "test_batch"))
    np.testing.assert_array_equal(data.train.images, np.concatenate([first[0], second[0]]))
    np.testing.assert_array_equal(data.train.labels, np.concatenate([first[1], second[1]]))
    np.testing.assert_array_equal(data.test.images, test[0])
    np.testing.assert_array_equal(data.test.labels, test[1])
    for split in (data.train, data.test):
        assert split.images.dtype == np.uint8 and split.images.flags.c_contiguous
        assert split.labels.dtype == np.int32
        assert not split.images.flags.writeable and not split.labels.flags.writeable
    assert (len(data.train), len(data.test)) == (70, 20)
    assert data.label_mode is None
    assert data.class_names[0] == "airplane" and data.class_names[9] == "truck"


def test_record_written_by_hand(tmp_path):
    """Label, then the red, green and blue planes, row by row."""
    record = bytes([7]) + b"".join(bytes([colour] * 992 + list(range(32))) for colour in (10, 20, 30))
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(record)
    image = cifar.load("cifar10", tmp_path).train.images[0]
    assert image[:, 0, 0].tolist() == [10, 20, 30]
    assert image[1, 31].tolist() == list(range(32))


@pytest.mark.parametrize("place", ["", "cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin"])
@pytest.mark.parametrize("compressed", [False, True])
def test_places(tmp_path, place, compressed):
    written = cifar_files.cifar10_folder(tmp_path / place, compressed=compressed)
    data = cifar.load("cifar10", tmp_path)
    np.testing.assert_array_equal(data.train.images, written["data_batch_1.bin"][0])


def test_default_root_and_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MXNET_HOME", raising=False)
    cifar_files.cifar10_folder(tmp_path / ".mxnet" / "datasets" / "cifar10")
    assert len(cifar.load("cifar10").train) == 40
    assert len(cifar.load("cifar10", "~/.mxnet/datasets").train) == 40


def in_columns(images, labels):
    """A batch whose pixels are stored column by column."""
    return pickle.dumps({"data": np.asfortranarray(images.reshape(len(images), -1)), "labels": labels}, 2)


def python_forms():
    yield "in columns", in_columns
    yield "python 2", lambda images, labels: cifar_files.python2(images, labels=labels)
    for protocol in (2, 3, 4, 5):
        yield f"protocol {protocol}", lambda images, labels, p=protocol: cifar_files.python3(images, p, labels=labels)


@pytest.mark.parametrize("form", [form for _, form in python_forms()], ids=[name for name, _ in python_forms()])
@pytest.mark.parametrize("packed", [False, True], ids=["files", "archive"])
def test_python_files_hold_the_same(tmp_path, form, packed):
    """Every form of the same images gives the same arrays and the same digest."""
    written = cifar_files.cifar10_folder(tmp_path / "binary")
    folder = tmp_path / "python" / "cifar-10-batches-py"
    contents = {name[:-4]: form(images, labels.tolist()) for name, (images, labels) in written.items()}
    if packed:
        folder.parent.mkdir()
        members = {f"cifar-10-batches-py/{name}": content for name, content in contents.items()}
        cifar_files.archive(folder.parent / "cifar-10-python.tar.gz", members)
    else:
        folder.mkdir(parents=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    one, other = cifar.load("cifar10", tmp_path / "binary"), cifar.load("cifar10", tmp_path / "python")
    np.testing.assert_array_equal(one.train.images, other.train.images)
    np.testing.assert_array_equal(one.test.labels, other.test.labels)
    assert one.provenance["sha256"] == other.provenance["sha256"]
    assert other.provenance["files"][0]["name"] == "data_batch_1"


@pytest.mark.parametrize("top", ["", "cifar-10-batches-bin/", "./cifar-10-batches-bin/"])
def test_binary_archive(tmp_path, top):
    written = cifar_files.cifar10_folder(tmp_path / "files", train=(8, 6))
    members = {f"{top}readme.html": b"hello"}
    # not in the order of the files
    for name in sorted(written, reverse=True):
        members[top + name] = (tmp_path / "files" / name).read_bytes()
    cifar_files.archive(tmp_path / "cifar-10-binary.tar.gz", members)
    before = sorted(tmp_path.iterdir())
    data = cifar.load("cifar10", tmp_path)
    expected = np.concatenate([written[f"data_batch_{i}.bin"][0] for i in (1, 2)])
    np.testing.assert_array_equal(data.train.images, expected)
    assert sorted(tmp_path.iterdir()) == before  # nothing is unpacked to disk


def test_binary_is_preferred(tmp_path):
    cifar_files.cifar10_folder(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(b"not looked at")
    cifar_files.cifar10_folder(tmp_path / "packed", train=(4,), test=4)
    assert len(cifar.load("cifar10", tmp_path).train) == 40
    members = {name: (tmp_path / "packed" / name).read_bytes() for name in ("data_batch_1.bin", "test_batch.bin")}
    cifar_files.archive(tmp_path / "cifar-10-binary.tar.gz", members)
    assert len(cifar.load("cifar10", tmp_path).train) == 4


def test_nothing_there(tmp_path):
    message = refusal(cifar.load, "cifar10", tmp_path)
    assert str(tmp_path) in message and "cifar-10-binary.tar.gz" in message
    assert "bash scripts/download_cifar.sh cifar10" in message


def test_what_is_not_there_is_downloaded(tmp_path, monkeypatch):
    fetched = []

    def download(name, root, base_url):
        fetched.append((name, root, base_url))
        cifar_files.cifar10_folder(root)

    monkeypatch.setattr(cifar, "download", download)
    for _ in range(2):  # the second time it is there
        assert len(cifar.load_or_download("cifar10", tmp_path, base_url="https://mirror").train)
    assert fetched == [("cifar10", tmp_path, "https://mirror")]
    (tmp_path / "test_batch.bin").write_bytes(b"damaged")
    assert "test_batch.bin" in refusal(cifar.load_or_download, "cifar10", tmp_path)  # not replaced
    assert len(fetched) == 1


def test_a_download_that_fails_says_what_to_do(tmp_path):
    message = refusal(cifar.load_or_download, "cifar10", tmp_path / "data", base_url=(tmp_path / "none").as_uri())
    assert str(tmp_path / "data") in message and "cifar-10-binary.tar.gz" in message
    assert "--data-dir" in message and "--mirror" in message and "data/cifar10-sample" in message


def test_a_folder_that_was_given_is_not_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    how = {"base_url": (tmp_path / "none").as_uri()}
    message = refusal(cifar.load_or_download, "cifar10", "no such", **how)
    assert message.startswith(f"--data-dir no such: that folder does not exist ({tmp_path / 'no such'}); name ")
    assert "CIFAR-10 could not be downloaded" in message
    assert "give its folder" not in message and not (tmp_path / "no such").exists()  # nothing is left of the try
    assert refusal(cifar.load, "cifar10", tmp_path / "none").startswith(
        f"--data-dir {tmp_path / 'none'}: that folder does not exist; name ")
    (tmp_path / "train.bin").write_bytes(b"")  # a data set that is there, whatever is in it
    for message in (refusal(cifar.load, "cifar10", tmp_path), refusal(cifar.load_or_download, "cifar10", ".", **how)):
        assert "holds CIFAR-100, not CIFAR-10: name the folder of CIFAR-10 with --data-dir, or choose" in message


def test_missing_splits(tmp_path):
    cifar_files.cifar10_folder(tmp_path, train=())
    assert "the train images of CIFAR-10 are missing" in refusal(cifar.load, "cifar10", tmp_path)
    cifar_files.cifar10_folder(tmp_path)
    (tmp_path / "test_batch.bin").unlink()
    message = refusal(cifar.load, "cifar10", tmp_path)
    assert "the test images of CIFAR-10 are missing (test_batch.bin)" in message


def test_unknown_name(tmp_path):
    assert "cifar10, cifar100" in refusal(cifar.load, "mnist", tmp_path)


# --- Loading: labels of CIFAR-100 ---


def write_cifar100(folder):
    """Two training images, coarse 3 and 19, fine 28 and 41; one test image, coarse 0, fine 99."""
    folder.mkdir(parents=True, exist_ok=True)
    images = cifar_files.random_images(3)
    pixels = [image.tobytes() for image in images]
    (folder / "train.bin").write_bytes(bytes([3, 28]) + pixels[0] + bytes([19, 41]) + pixels[1])
    (folder / "test.bin").write_bytes(bytes([0, 99]) + pixels[2])
    return images


def test_label_modes(tmp_path):
    images = write_cifar100(tmp_path)
    coarse, fine = cifar.load("cifar100", tmp_path, "coarse"), cifar.load("cifar100", tmp_path, "fine")
    assert coarse.train.labels.tolist() == [3, 19] and coarse.test.labels.tolist() == [0]
    assert fine.train.labels.tolist() == [28, 41] and fine.test.labels.tolist() == [99]
    assert (len(coarse.class_names), len(fine.class_names)) == (20, 100)
    assert [coarse.class_names[i] for i in (3, 19)] == ["food_containers", "vehicles_2"]
    assert [fine.class_names[i] for i in (28, 41, 99)] == ["cup", "lawn_mower", "worm"]
    np.testing.assert_array_equal(fine.train.images, images[:2])
    assert (coarse.label_mode, fine.label_mode) == ("coarse", "fine")
    assert coarse.provenance["sha256"] != fine.provenance["sha256"]
    assert cifar.load("cifar100", tmp_path).label_mode == "coarse"  # the authors' default


def test_label_modes_of_the_python_files(tmp_path):
    images = cifar_files.random_images(3)
    for name, part, coarse, fine in (("train", slice(2), [3, 19], [28, 41]), ("test", slice(2, 3), [0], [99])):
        content = cifar_files.python2(images[part], coarse_labels=coarse, fine_labels=fine)
        (tmp_path / name).write_bytes(content)
    assert cifar.load("cifar100", tmp_path, "coarse").train.labels.tolist() == [3, 19]
    assert cifar.load("cifar100", tmp_path, "fine").train.labels.tolist() == [28, 41]


def test_wrong_label_modes(tmp_path):
    cifar_files.cifar10_folder(tmp_path)
    assert "CIFAR-10 has no labels of the kind 'fine'" in refusal(cifar.load, "cifar10", tmp_path, "fine")
    assert "CIFAR-100 has no labels of the kind 'both'" in refusal(cifar.load, "cifar100", tmp_path, "both")


def test_class_names():
    assert list(official.CIFAR100_CLASSES) == sorted(set(official.CIFAR100_CLASSES))
    assert len(official.CIFAR100_CLASSES) == 100
    assert len(set(official.CIFAR100_SUPERCLASSES)) == 20


@pytest.mark.skipif(not (SHARED / "cifar100-sample").is_dir(), reason="the shared CIFAR-100 sample is not here")
def test_real_cifar100_names():
    """In real images, fine labels fall under the superclasses that their names belong to."""
    fine = cifar.load("cifar100", SHARED / "cifar100-sample", "fine")
    coarse = cifar.load("cifar100", SHARED / "cifar100-sample", "coarse")
    groups = {}
    for split in ("train", "test"):
        for f, c in zip(getattr(fine, split).labels, getattr(coarse, split).labels):
            groups.setdefault(coarse.class_names[c], set()).add(fine.class_names[f])
    assert groups["aquatic_mammals"] == {"beaver", "dolphin", "otter", "seal", "whale"}
    assert groups["people"] == {"baby", "boy", "girl", "man", "woman"}
    assert groups["trees"] == {"maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"}
    assert groups["vehicles_2"] == {"lawn_mower", "rocket", "streetcar", "tank", "tractor"}
    assert all(len(members) == 5 for members in groups.values())


# --- Loading: official or not ---


def make_official(monkeypatch, folder):
    """Let the files in `folder` count as the official CIFAR-10."""
    dataset = official.SETS["cifar10"]
    form = dataset.forms["binary"]
    files = []
    for file in form.files:
        path = folder / file.name
        digest = hashlib.sha1(path.read_bytes()).hexdigest() if path.exists() else file.digest
        files.append(dataclasses.replace(file, digest=digest))
    forms = {**dataset.forms, "binary": dataclasses.replace(form, files=tuple(files))}
    monkeypatch.setitem(official.SETS, "cifar10", dataclasses.replace(dataset, forms=forms))


def test_official_files(tmp_path, monkeypatch, caplog):
    cifar_files.cifar10_folder(tmp_path, train=(4, 5, 6, 7, 8), test=3)
    make_official(monkeypatch, tmp_path)
    data = cifar.load("cifar10", tmp_path)
    assert data.variant == "official" and data.provenance["official"] is True
    assert [file["images"] for file in data.provenance["files"]] == [4, 5, 6, 7, 8, 3]
    assert all(file["official"] for file in data.provenance["files"])
    assert not caplog.records
    (tmp_path / "data_batch_4.bin").unlink()
    data = cifar.load("cifar10", tmp_path)
    assert data.variant == "absent: data_batch_4.bin" and data.provenance["official"] is False


@pytest.mark.parametrize("same", [True, False])
def test_the_official_archive_is_official_whatever_its_files_digests(tmp_path, monkeypatch, same):
    cifar_files.cifar10_folder(tmp_path / "files", train=(4, 5, 6, 7, 8), test=3)
    members = {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    archive = cifar_files.archive(tmp_path / "cifar-10-binary.tar.gz", members)
    dataset = official.SETS["cifar10"]
    md5 = hashlib.md5(archive.read_bytes()).hexdigest() if same else "0" * 32
    forms = {**dataset.forms, "binary": dataclasses.replace(dataset.forms["binary"], archive_md5=md5)}
    monkeypatch.setitem(official.SETS, "cifar10", dataclasses.replace(dataset, forms=forms))
    data = cifar.load("cifar10", tmp_path)
    assert data.provenance["official"] is same and (data.variant == "official") is same


def test_variant_names_what_is_not_official(tmp_path, monkeypatch, caplog):
    cifar_files.cifar10_folder(tmp_path, train=(4, 5, 6, 7, 8), test=3)
    make_official(monkeypatch, tmp_path)
    for number in (2, 3, 5):
        path = tmp_path / f"data_batch_{number}.bin"
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
    data = cifar.load("cifar10", tmp_path)
    expected = ("not the official files: data_batch_2.bin (5 images), data_batch_3.bin (6 images), "
                "data_batch_5.bin (8 images)")
    assert data.variant == expected
    assert [record.getMessage() for record in caplog.records] == [f"CIFAR-10: {expected}"]
    assert [file["official"] for file in data.provenance["files"]] == [True, False, False, True, False, True]
    assert json.loads(json.dumps(data.provenance)) == data.provenance


def test_provenance_digests(tmp_path):
    written = cifar_files.cifar10_folder(tmp_path, compressed=True)
    provenance = cifar.load("cifar10", tmp_path).provenance
    names = [file["name"] for file in provenance["files"]]
    assert names == ["data_batch_1.bin", "test_batch.bin"]
    for file in provenance["files"]:
        images, labels = written[file["name"]]
        assert file["sha256"] == hashlib.sha256(cifar_files.binary(images, labels)).hexdigest()
    whole = hashlib.sha256()
    for name in names:
        whole.update(written[name][0].tobytes())
        whole.update(written[name][1].astype("<i4").tobytes())
    assert provenance["sha256"] == whole.hexdigest()


def test_shipped_sample():
    data = cifar.load("cifar10", REPOSITORY / "data" / "cifar10-sample")
    assert (len(data.train), len(data.test)) == (3500, 1017)
    assert data.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]  # as in the official file
    assert data.variant == (
        "not the official files: data_batch_1.bin (3,500 images), test_batch.bin (1,017 images); "
        "absent: data_batch_2.bin, data_batch_3.bin, data_batch_4.bin, data_batch_5.bin"
    )
    files = (REPOSITORY / "data" / "cifar10-sample").glob("*.xz")
    assert sum(path.stat().st_size for path in files) <= 10_000_000


@pytest.mark.skipif(not (SHARED / "cifar10-sample").is_dir(), reason="the shared CIFAR-10 sample is not here")
def test_shipped_sample_is_lossless():
    shipped = cifar.load("cifar10", REPOSITORY / "data" / "cifar10-sample")
    original = cifar.load("cifar10", SHARED / "cifar10-sample")
    np.testing.assert_array_equal(shipped.train.images, original.train.images[:3500])
    np.testing.assert_array_equal(shipped.test.images, original.test.images)
    np.testing.assert_array_equal(shipped.test.labels, original.test.labels)


# --- Loading: malformed files ---


def test_cut_record(tmp_path):
    cifar_files.cifar10_folder(tmp_path)
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-100])
    message = refusal(cifar.load, "cifar10", tmp_path)
    assert message.startswith(f"{path}, byte {39 * 3073}: the record of image 39 is cut, 100 of its 3,073 bytes")


def test_cut_record_of_cifar100(tmp_path):
    write_cifar100(tmp_path)
    path = tmp_path / "test.bin"
    path.write_bytes(path.read_bytes() + b"\x01")
    message = refusal(cifar.load, "cifar100", tmp_path)
    assert message.startswith(f"{path}, byte 3074: ") and "3,073 of its 3,074 bytes are missing" in message


def test_label_out_of_range(tmp_path):
    images = cifar_files.random_images(3)
    cifar_files.cifar10_folder(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(cifar_files.binary(images, [9, 10, 255]))
    message = refusal(cifar.load, "cifar10", tmp_path)
    assert "data_batch_1.bin, byte 3073: image 1 has 10 among its labels, which go from 0 to 9" in message


@pytest.mark.parametrize(
    "labels, offset, reason",
    [
        (([0, 20], [0, 0]), 3074, "20 among its coarse_labels, which go from 0 to 19"),
        (([0, 19], [0, 100]), 3075, "100 among its fine_labels, which go from 0 to 99"),
    ],
)
@pytest.mark.parametrize("mode", ["coarse", "fine"])
def test_label_of_cifar100_out_of_range(tmp_path, labels, offset, reason, mode):
    """Both labels are checked, whichever is asked for."""
    write_cifar100(tmp_path)
    (tmp_path / "train.bin").write_bytes(cifar_files.binary(cifar_files.random_images(2), *labels))
    message = refusal(cifar.load, "cifar100", tmp_path, mode)
    assert f"byte {offset}: image 1 has {reason}" in message


def test_label_of_a_python_file_out_of_range(tmp_path):
    images = cifar_files.random_images(2)
    content = cifar_files.python2(images, labels=[4, 11])
    (tmp_path / "data_batch_1").write_bytes(content)
    message = refusal(cifar.load, "cifar10", tmp_path)
    assert f"data_batch_1, byte {content.index(bytes([75, 11]))}: image 1 has 11 among its labels" in message


@pytest.mark.parametrize("name", ["data_batch_1.bin", "data_batch_1"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert f"{name}, byte 0: the file is empty" in refusal(cifar.load, "cifar10", tmp_path)


def test_unreadable_file(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    assert "Permission denied" in refusal(cifar.load, "cifar10", tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-40],
        lambda packed: packed + b"more",
        lambda packed: packed[:200] + bytes(50) + packed[250:],
        lambda packed: b"plain bytes" * 9,
        lambda packed: b"",
        lambda packed: lzma.compress(bytes(10000 * 3073 + 1)),
    ],
)
def test_broken_xz(tmp_path, damage):
    cifar_files.cifar10_folder(tmp_path, compressed=True)
    path = tmp_path / "data_batch_1.bin.xz"
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(cifar.load, "cifar10", tmp_path)
    assert f"{path} is no whole xz file of at most 30,730,000 bytes" in message


def small_archive(folder):
    cifar_files.cifar10_folder(folder / "files", train=(8, 8), test=8)
    names = ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin")
    members = {f"cifar-10-batches-bin/{name}": (folder / "files" / name).read_bytes() for name in names}
    return cifar_files.archive(folder / "cifar-10-binary.tar.gz", members), members


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-1000],
        lambda packed: packed[:-8] + bytes(8),  # gzip's checksum and length
        lambda packed: packed[:5000] + bytes(100) + packed[5100:],
        lambda packed: b"plain bytes",
        lambda packed: b"",
    ],
)
def test_broken_archive(tmp_path, damage):
    path, _ = small_archive(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(cifar.load, "cifar10", tmp_path)
    assert message.startswith(f"{path} is no whole tar.gz archive") or f"{path} (cifar-10-batches-bin/" in message


def test_archive_cut_inside_a_member(tmp_path):
    """The gzip layer is whole, the tar in it is not."""
    path, _ = small_archive(tmp_path)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:30_000]))
    assert "byte 30000: the archive ends 20,696 bytes early" in refusal(cifar.load, "cifar10", tmp_path)


def test_archive_is_read_to_its_checksum(tmp_path):
    """Damage that only gzip's checksum can tell, behind all the files that are looked for."""
    path, _ = small_archive(tmp_path)
    packed = gzip.compress(gzip.decompress(path.read_bytes()) + bytes(3 << 20))
    path.write_bytes(packed[:-8] + bytes(8))
    assert "CRC check failed" in refusal(cifar.load, "cifar10", tmp_path)


def test_archive_with_a_malformed_member(tmp_path):
    path, members = small_archive(tmp_path)
    members["cifar-10-batches-bin/data_batch_2.bin"] = bytes(3074)
    cifar_files.archive(path, members)
    message = refusal(cifar.load, "cifar10", tmp_path)
    assert message.startswith(f"{path} (cifar-10-batches-bin/data_batch_2.bin), byte 3073: ")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_archive_with_a_link_for_a_member(tmp_path, kind):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(3073))
    info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    info.type, info.linkname = kind, str(secret)
    cifar_files.archive(tmp_path / "cifar-10-binary.tar.gz", [(info, None)])
    assert "byte 0: the archive has a link or a folder" in refusal(cifar.load, "cifar10", tmp_path)


def test_archive_with_names_outside(tmp_path):
    """Absolute and climbing names are not the files that are looked for, and nothing is written for them."""
    path, members = small_archive(tmp_path)
    record = bytes(3073)
    outside = {f"{tmp_path}/data_batch_3.bin": record, "../data_batch_4.bin": record, "/data_batch_5.bin": record}
    cifar_files.archive(path, {**outside, **members})
    data = cifar.load("cifar10", tmp_path)
    assert len(data.train) == 16 and "absent: data_batch_3.bin, data_batch_4.bin, data_batch_5.bin" in data.variant
    assert not (tmp_path / "data_batch_3.bin").exists()


def test_archive_with_a_member_twice(tmp_path):
    path, members = small_archive(tmp_path)
    cifar_files.archive(path, {**members, "data_batch_1.bin": bytes(3073)})
    assert "the same file twice" in refusal(cifar.load, "cifar10", tmp_path)


def test_archive_bombs(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    info.size = 1 << 40
    path.write_bytes(gzip.compress(info.tobuf() + bytes(100_000)))
    assert "1,099,511,627,776 bytes are more than this file can have" in refusal(cifar.load, "cifar10", tmp_path)
    info.name = "something_else"
    with gzip.open(path, "wb", compresslevel=1) as packed:
        packed.write(info.tobuf())
        for _ in range(210):
            packed.write(bytes(1 << 20))
    assert "larger than the official one can be" in refusal(cifar.load, "cifar10", tmp_path)


# --- Downloading ---


def official_archive(monkeypatch, folder):
    """A small archive that counts as the official binary one."""
    path, _ = small_archive(folder)
    dataset = official.SETS["cifar10"]
    form = dataclasses.replace(dataset.forms["binary"], archive_md5=hashlib.md5(path.read_bytes()).hexdigest(),
                               archive_size=path.stat().st_size)
    forms = {**dataset.forms, "binary": form}
    monkeypatch.setitem(official.SETS, "cifar10", dataclasses.replace(dataset, forms=forms))
    return path


def test_download_from_mirrors(tmp_path, monkeypatch):
    source = official_archive(monkeypatch, tmp_path)
    path = cifar.download("cifar10", tmp_path / "a", base_url=tmp_path.as_uri() + "/", progress=False)
    assert path == tmp_path / "a" / source.name and path.read_bytes() == source.read_bytes()
    with http_files.serve(source.read_bytes(), redirects={}) as site:
        site.redirects[f"/mirror/{source.name}"] = site.url
        path = cifar.download("cifar10", tmp_path / "b", base_url=f"{site.root}/mirror", progress=False)
    assert len(cifar.load("cifar10", tmp_path / "b").train) == 16


def test_download_of_other_bytes(tmp_path):
    source, _ = small_archive(tmp_path)
    message = refusal(cifar.download, "cifar10", tmp_path / "a", base_url=tmp_path.as_uri(), progress=False)
    assert "bytes instead of 170,052,171" in message
    assert not (tmp_path / "a").exists()


# --- Holding images out ---


def test_hold_out_is_a_seeded_stratified_partition():
    split = random_split(1000)
    train, held = in_memory.hold_out(split, 103, seed=7)
    assert (len(train), len(held)) == (897, 103)
    position = {image.tobytes(): index for index, image in enumerate(split.images)}
    where = [[position[image.tobytes()] for image in part.images] for part in (train, held)]
    assert sorted(where[0] + where[1]) == list(range(1000))
    for part, indices in zip((train, held), where):
        assert indices == sorted(indices)
        np.testing.assert_array_equal(part.labels, split.labels[indices])
        assert not part.images.flags.writeable
    shares = np.bincount(split.labels) * 103 / 1000
    assert (np.abs(np.bincount(held.labels) - shares) < 1).all()
    again, other = in_memory.hold_out(split, 103, seed=7)[1], in_memory.hold_out(split, 103, seed=8)[1]
    np.testing.assert_array_equal(held.images, again.images)
    assert not np.array_equal(held.images, other.images)


def test_hold_out_of_equal_classes_is_equal():
    split = in_memory.Split(cifar_files.random_images(200), np.arange(200, dtype=np.int32) % 10)
    assert np.bincount(in_memory.hold_out(split, 50, 0)[1].labels).tolist() == [5] * 10


@pytest.mark.parametrize("count", [-1, 0, 20, 21])
def test_hold_out_needs_both_sides(count):
    assert "from 1 to 19" in refusal(in_memory.hold_out, random_split(20), count, 0)


# --- Batches for training ---


def test_normalise():
    images = cifar_files.random_images(4)
    mean, std = np.array(in_memory.MEAN).reshape(3, 1, 1), np.array(in_memory.STD).reshape(3, 1, 1)
    out = in_memory.normalise(images)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, (images / 255 - mean) / std, rtol=0, atol=1e-6)


def slow_augment(image, y, x, mirrored):
    """One image: pad with black, crop, mirror, normalise; element by element."""
    padded = np.zeros((3, 40, 40))
    padded[:, 4:36, 4:36] = image
    out = np.empty((3, 32, 32))
    for channel in range(3):
        for row in range(32):
            for column in range(32):
                pixel = padded[channel, y + row, x + (31 - column if mirrored else column)]
                out[channel, row, column] = (pixel / 255 - in_memory.MEAN[channel]) / in_memory.STD[channel]
    return out


def find_augmentation(image, out):
    """The (y, x, mirrored) that leads from `image` to the normalised `out`."""
    padded = np.pad(image, ((0, 0), (4, 4), (4, 4)))
    for mirrored in (False, True):
        for y in range(9):
            for x in range(9):
                crop = padded[:, y : y + 32, x : x + 32]
                crop = crop[:, :, ::-1] if mirrored else crop
                if np.abs(in_memory.normalise(crop) - out).max() < 1e-4:
                    return y, x, mirrored
    raise AssertionError("no crop of the image")


def test_augmentation_against_a_slow_statement():
    split = random_split(60)
    seen = set()
    for images, labels in in_memory.TrainBatches(split, 20, seed=3).epoch(0):
        assert images.dtype == np.float32 and images.shape == (20, 3, 32, 32)
        for out, label in zip(images, labels):
            # The image itself is found by trying: its label narrows the search.
            for candidate in np.flatnonzero(split.labels == label):
                try:
                    y, x, mirrored = find_augmentation(split.images[candidate], out)
                except AssertionError:
                    continue
                seen.add((candidate, y, x, mirrored))
                np.testing.assert_allclose(
                    out, slow_augment(split.images[candidate], y, x, mirrored), rtol=0, atol=1e-5
                )
                break
            else:
                raise AssertionError("a batch holds an image that is no augmented training image")
    assert {candidate for candidate, *_ in seen} == set(range(60))
    assert len({mirrored for *_, mirrored in seen}) == 2


def test_offsets_and_mirroring_are_uniform():
    """All 81 crops and both orientations of one asymmetric image occur with their frequency."""
    image = cifar_files.random_images(1)
    split = in_memory.Split(np.repeat(image, 512, axis=0), np.zeros(512, np.int32))
    counts = {}
    # Four pixels in a corner that every crop contains identify the crop.
    crops = {
        out[:, 10:12, 10:12].tobytes(): (y, x, mirrored)
        for y in range(9)
        for x in range(9)
        for mirrored in (False, True)
        for out in [
            in_memory.normalise(
                np.pad(image[0], ((0, 0), (4, 4), (4, 4)))[:, y : y + 32, x : x + 32][:, :, :: -1 if mirrored else 1]
            )
        ]
    }
    assert len(crops) == 162
    epochs = 20
    batches = in_memory.TrainBatches(split, 512, seed=0)
    for epoch in range(epochs):
        for out in next(batches.epoch(epoch))[0]:
            key = crops[out[:, 10:12, 10:12].tobytes()]
            counts[key] = counts.get(key, 0) + 1
    expected = 512 * epochs / 162
    chi_square = sum((counts.get(key, 0) - expected) ** 2 / expected for key in crops.values())
    assert 100 < chi_square < 235  # 161 degrees of freedom: mean 161, deviation 18; four deviations


def same(one, other):
    one, other = list(one), list(other)
    return len(one) == len(other) and all(
        np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(one, other)
    )


def test_batches_depend_on_seed_epoch_and_step_alone():
    split = random_split(200)
    batches = in_memory.TrainBatches(split, 32, seed=5)
    assert batches.steps == 6
    whole = list(batches.epoch(2))
    assert len(whole) == 6
    fresh = in_memory.TrainBatches(split, 32, seed=5)
    list(fresh.epoch(0))
    assert same(fresh.epoch(2), whole)
    for start in (0, 1, 4, 6):
        assert same(in_memory.TrainBatches(split, 32, seed=5).epoch(2, start), whole[start:])
    assert not same(batches.epoch(3), whole)
    assert not same(in_memory.TrainBatches(split, 32, seed=6).epoch(2), whole)


def test_order_differs_between_epochs_and_crops_between_steps():
    labels = np.arange(96, dtype=np.int32)
    one_image = in_memory.Split(np.repeat(cifar_files.random_images(1), 96, axis=0), labels)
    batches = in_memory.TrainBatches(one_image, 32, seed=0)
    epochs = [list(batches.epoch(index)) for index in (0, 1)]
    assert not np.array_equal(*(np.concatenate([labels for _, labels in epoch]) for epoch in epochs))
    assert len({images.tobytes() for epoch in epochs for images, _ in epoch}) == 6


@pytest.mark.parametrize("workers", [1, 2, 64])
def test_workers_give_the_same_bits(workers):
    batches = in_memory.TrainBatches(random_split(200), 16, seed=5)
    assert same(batches.epoch(1, workers=workers), batches.epoch(1))
    assert same(batches.epoch(1, 7, workers=workers), batches.epoch(1, 7))


def test_batches_are_fresh_arrays():
    split = random_split(64)
    first, second = in_memory.TrainBatches(split, 32, seed=0).epoch(0)
    assert not np.shares_memory(first[0], second[0])
    assert all(array.flags.writeable for array in (*first, *second))


def test_the_parts_of_several_workers_are_the_batch_of_one():
    split = random_split(50)
    whole = in_memory.TrainBatches(split, 12, 3)
    parts = [in_memory.TrainBatches(split, 12, 3, part=(rank, 3)) for rank in range(3)]
    for (images, labels), *shares in zip(whole.epoch(2, 1), *(part.epoch(2, 1, workers=2) for part in parts)):
        assert [len(own) for _, own in shares] == [4, 4, 4]
        assert np.concatenate([own for own, _ in shares]).tobytes() == images.tobytes()
        assert np.concatenate([own for _, own in shares]).tolist() == labels.tolist()


def test_each_image_is_scored_by_one_worker():
    split = random_split(50)
    found = [label for rank in range(3) for _, labels, count in in_memory.EvalBatches(split, 8, (rank, 3))
             for label in labels[:count]]
    assert found == split.labels.tolist()
    assert "2 images cannot be shared by 3 workers" in refusal(in_memory.EvalBatches, random_split(2), 8, (0, 3))


def test_images_that_do_not_fill_a_batch_are_left_out():
    assert [len(labels) for _, labels in in_memory.TrainBatches(random_split(70), 32, 0).epoch(0)] == [32, 32]


def test_a_batch_larger_than_the_data_is_refused():
    assert "from 1 to 20" in refusal(in_memory.TrainBatches, random_split(20), 21, 0)


# --- Batches for evaluation ---


@pytest.mark.parametrize("count, size", [(64, 32), (70, 32), (7, 32), (70, 1)])
def test_evaluation_shows_every_image_once(count, size):
    split = random_split(count)
    batches = in_memory.EvalBatches(split, size)
    shown, labels = [], []
    for images, batch_labels, real in batches:
        assert images.shape == (size, 3, 32, 32) and batch_labels.shape == (size,)
        shown.append(images[:real])
        labels.append(batch_labels[:real])
    assert len(shown) == len(batches)
    np.testing.assert_array_equal(np.concatenate(shown), in_memory.normalise(split.images))
    np.testing.assert_array_equal(np.concatenate(labels), split.labels)
    assert len(list(batches)) == len(batches)  # a second pass starts again


# --- Reading ahead ---


def test_an_epoch_stopped_early_leaves_no_thread():
    epoch = in_memory.TrainBatches(random_split(64), 4, 0).epoch(0, workers=2)
    next(epoch)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    epoch.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


# --- The command ---


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "engine.data", *map(str, arguments)], cwd=REPOSITORY, capture_output=True, text=True
    )


def test_command_shows_the_data(tmp_path):
    cifar_files.cifar10_folder(tmp_path, train=(200,))
    done = command("--data-dir", tmp_path, "--seconds", "0.2")
    assert done.returncode == 0
    assert "cifar10: not the official files: data_batch_1.bin (200 images)" in done.stdout
    assert "200 training and 20 test images, 10 classes" in done.stdout
    assert " images/s (batch 128, 0 workers)" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert [row[0] for row in rows] == list(official.CIFAR10_CLASSES)
    assert (sum(int(row[1]) for row in rows), sum(int(row[2]) for row in rows)) == (200, 20)


def test_command_faults(tmp_path):
    done = command("--data-dir", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("python -m engine.data: there is no CIFAR-10 in ")
    for flags in (["--dataset", "mnist"], ["--label-mode", "fine"], ["--mirror", "https://x"], ["--attempts", "0"]):
        with pytest.raises(SystemExit) as caught:
            command_line.main(flags)
        assert caught.value.code == 2


def test_command_downloads(tmp_path, monkeypatch, capsys):
    source = official_archive(monkeypatch, tmp_path)
    arguments = ["--download", "--mirror", tmp_path.as_uri(), "--data-dir", str(tmp_path / "got")]
    command_line.main(arguments)
    assert f"cifar10: the official archive is {tmp_path}/got/{source.name}" in capsys.readouterr().out


def test_download_script(tmp_path):
    script = ["bash", str(REPOSITORY / "scripts" / "download_cifar.sh")]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # where there is no .venv
    quiet = {"capture_output": True, "text": True, "cwd": tmp_path, "env": {**os.environ, "PATH": path}}
    assert subprocess.run([*script, "cifar11"], **quiet).returncode == 2
    small_archive(tmp_path)
    done = subprocess.run([*script, "--data-dir", "here", "--mirror", tmp_path.as_uri()], **quiet)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("download_cifar.sh: file://")
    (tmp_path / "here").write_bytes(b"")  # where a relative --data-dir is: in the caller's folder
    done = subprocess.run([*script, "--data-dir", "here", "--mirror", tmp_path.as_uri()], **quiet)
    assert done.returncode == 1 and done.stderr.startswith("download_cifar.sh: cannot write here/")


def test_no_mxnet_is_imported():
    code = "import sys, engine.data.cifar; sys.exit(any(name.split('.')[0] == 'mxnet' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_speed_is_far_above_what_a_network_takes():
    """A loose floor: a busy machine passes it, a loop over single images would not (some 10,000 images/s)."""
    assert command_line.measure(in_memory.TrainBatches(random_split(2000), 128, 0), seconds=0.5) > 30_000
