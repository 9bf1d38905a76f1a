"""engine/data/prepare_imagenet.py: archives to folders to record files, what is refused, and going on after a stop."""
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import imagenet_files as files
import mxnet as mx
import numpy as np
import pytest
from PIL import Image

from engine.data import image_sources, imagenet, imagenet_archives, images, pack_records, prepare_imagenet
from engine.data.records import RecordFile, packed
from support.errors import InputError
from support.lock import locked

ROOT = Path(__file__).resolve().parent.parent
VAL = [f"ILSVRC2012_val_0000000{number}.JPEG" for number in range(1, 6)]
VAL_CLASSES = [files.CLASSES[number] for number in (2, 0, 1, 0, 2)]


@pytest.fixture
def official(tmp_path):
    """A data folder with small archives of the official form, and the labels."""
    written = files.folder(tmp_path / "made")
    files.train_archive(tmp_path / "ILSVRC2012_img_train.tar", written)
    files.tar(tmp_path / "ILSVRC2012_img_val.tar", {name: files.jpeg(90 + n) for n, name in enumerate(VAL)})
    (tmp_path / "labels.txt").write_text("\n".join(VAL_CLASSES) + "\n")
    return tmp_path


def prepare(root, *flags):
    return prepare_imagenet.main(["--data-dir", str(root), "--threads", "2", *map(str, flags)])


def error(capsys, root, *flags):
    capsys.readouterr()
    assert prepare(root, *flags) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("prepare_imagenet.sh: ")
    return lines[0]


def contents(source):
    return sorted((source.read(index), int(source.labels[index])) for index in range(len(source)))


def test_the_official_archives_become_folders_and_record_files(official, capsys):
    assert prepare(official, "--val-labels", official / "labels.txt") == 0
    shown = capsys.readouterr().out
    for words in ("train: 12 images (officially 1,281,167) of 3 classes", "val: 5 images (officially 50,000)",
                  "made in"):
        assert words in shown
    folders, records = imagenet.load(official), imagenet.load(official, use_rec=True)
    assert folders.class_names == records.class_names == files.CLASSES
    for split in ("train", "val"):
        assert contents(getattr(folders, split)) == contents(getattr(records, split))
    assert contents(folders.train) == contents(image_sources.Folders(official / "made"))
    for number, (name, wanted) in enumerate(zip(VAL, VAL_CLASSES)):
        assert (official / "val" / wanted / name).read_bytes() == files.jpeg(90 + number)
    assert sorted(os.listdir(official / "rec")) == sorted(
        ["synset.txt", *(f"{split}.{kind}" for split in ("train", "val") for kind in ("idx", "json", "lst", "rec"))])
    assert json.loads((official / "rec" / "train.json").read_text())["images"] == 12


def test_a_second_run_does_nothing_and_other_settings_are_refused(official, capsys):
    assert prepare(official, "--val-labels", official / "labels.txt") == 0
    before = {path: path.stat().st_mtime_ns for path in official.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert prepare(official) == 0  # no labels are needed any more
    assert capsys.readouterr().out.count("was there already") == 2
    for path, time in before.items():
        assert path.name == "synset.txt" or path.stat().st_mtime_ns == time
    assert "another --resize" in error(capsys, official, "--resize", 20)
    (official / "train" / files.CLASSES[0] / "new.JPEG").write_bytes(files.jpeg(1))
    assert "another list of images" in error(capsys, official)
    (official / "rec" / "train.json").write_text("{}")
    assert "cannot be read" in error(capsys, official)
    (official / "rec" / "train.json").unlink()
    assert prepare(official) == 0
    assert "not made by this program: left as it is" in capsys.readouterr().out


STRANGE = ("a tench", "tiger shark", "été", "猫 と 犬")


def test_folders_and_record_files_agree_whatever_the_classes_are_called(tmp_path):
    files.folder(tmp_path / "train", (3, 2, 2, 3), STRANGE)
    files.folder(tmp_path / "val", (1, 2, 1), STRANGE[1:], seed=50)
    (tmp_path / "val" / STRANGE[1] / os.fsdecode(b"caf\xe9 1.JPEG")).write_bytes(files.jpeg(80))
    assert prepare(tmp_path) == 0
    listed = tmp_path / "rec" / "synset.txt"
    assert listed.read_text(encoding="utf-8").split("\n") == [*sorted(STRANGE), ""]

    def agree():
        folders, records = imagenet.load(tmp_path), imagenet.load(tmp_path, use_rec=True)
        assert folders.class_names == records.class_names == tuple(sorted(STRANGE))
        for split in ("train", "val"):
            assert contents(getattr(folders, split)) == contents(getattr(records, split))

    agree()
    listed.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(sorted(STRANGE)).encode() + b"\r\n\r\n")  # by an editor
    before = listed.stat()
    agree()
    assert prepare(tmp_path) == 0
    assert listed.stat().st_mtime_ns == before.st_mtime_ns and listed.stat().st_ino == before.st_ino


def test_a_disk_that_is_full_at_the_class_names_leaves_no_half_of_them(official, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        assert "No space left" in error(capsys, official, "--splits", "train")
    assert os.listdir(official / "rec") == []
    (official / "rec" / "synset.txt").touch()  # as an earlier version left it
    assert prepare(official, "--splits", "train") == 0
    assert (official / "rec" / "synset.txt").read_text().split() == list(files.CLASSES)


def test_record_files_that_are_no_longer_whole_are_said(official, capsys):
    assert prepare(official, "--splits", "train") == 0
    index = official / "rec" / "train.idx"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))
    assert "remove" in error(capsys, official, "--splits", "train")
    (official / "rec" / "train.rec").unlink()
    assert prepare(official, "--splits", "train") == 0
    assert len(imagenet.load(official, use_rec=True, need=("train",)).train) == 12


def test_an_interrupted_run_goes_on_where_it_was(official, monkeypatch, capsys):
    unpack = imagenet_archives._unpack
    calls = []

    def stops(archive, member, path, where):
        calls.append(member.name)
        if len(calls) == stop:
            raise KeyboardInterrupt
        unpack(archive, member, path, where)

    monkeypatch.setattr(imagenet_archives, "_unpack", stops)
    labels = ("--val-labels", official / "labels.txt")
    stop = 6  # in the second class
    assert prepare(official, *labels) == 130
    assert sorted(os.listdir(official / "train")) == [files.CLASSES[0], files.CLASSES[1] + ".part"]
    calls, stop = [], 11  # the 3 + 5 that are left, and 2 of the validation images
    assert prepare(official, *labels) == 130
    assert not (official / "val").exists() and len(list((official / "val.part").rglob("*.JPEG"))) == 2
    calls, stop = [], 0
    monkeypatch.setattr(imagenet, "OFFICIAL_COUNTS", {"train": 12, "val": 5})
    assert prepare(official, *labels) == 0
    assert calls == VAL[2:]
    assert imagenet.load(official, use_rec=True).provenance["splits"]["train"]["images"] == 12
    assert "officially" not in capsys.readouterr().out.splitlines()[-1]


def test_a_folder_may_have_any_name(official):
    other = official.parent / os.fsdecode(b"\xff")
    official.rename(other)
    assert prepare(other, "--splits", "train") == 0
    assert len(imagenet.load(other, use_rec=True, need=("train",)).train) == 12


def test_packing_that_is_stopped_leaves_no_record_file(official, monkeypatch, capsys):
    encode = pack_records._encode

    def stops(source, index, resize, quality):
        if index == 7:
            raise KeyboardInterrupt
        return encode(source, index, resize, quality)

    monkeypatch.setattr(pack_records, "_encode", stops)
    assert prepare(official, "--splits", "train") == 130
    assert not list((official / "rec").glob("*.rec")) and not list((official / "rec").glob("*.json"))
    monkeypatch.setattr(pack_records, "_encode", encode)
    assert prepare(official, "--splits", "train") == 0
    assert sorted(path.name for path in (official / "rec").iterdir()) == [
        "synset.txt", "train.idx", "train.json", "train.lst", "train.rec"]


@pytest.mark.parametrize("flags", [["--pass-through"], ["--resize", "20", "--quality", "80"]])
def test_the_record_files_are_im2recs(official, flags):
    """To the byte what the tool's two commands give for the same folder."""
    (official / "made" / files.CLASSES[0] / "a.png").write_bytes(files.pillow_file("PNG"))
    own = [] if flags == ["--pass-through"] else flags
    assert prepare(official, "--train", official / "made", "--splits", "train", "--threads", 3, *own) == 0
    tool = str(Path(mx.__file__).parent / "tools" / "im2rec.py")
    program = """if True:
        import runpy, sys
        from support import runtime
        runtime.prepare()
        tool, *flags, prefix, root = sys.argv[1:]
        for command in (["--list", "--recursive"], flags):
            sys.argv = [tool, *command, prefix, root]
            runpy.run_path(tool, run_name="__main__")
    """
    (official / "own").mkdir()
    subprocess.run([sys.executable, "-c", program, tool, *flags, str(official / "own" / "train"),
                    str(official / "made")], check=True, cwd=ROOT, capture_output=True, timeout=120)
    for kind in ("lst", "idx", "rec"):
        assert (official / "own" / f"train.{kind}").read_bytes() == (official / "rec" / f"train.{kind}").read_bytes()


@pytest.mark.parametrize("image", [
    b"", b"abc", b"image" * 5, (MAGIC := struct.pack("<I", 0xCED7230A)), MAGIC * 3, b"abcd" + MAGIC + b"ab",
    b"ab" + MAGIC + b"cd"])
def test_a_record_is_to_the_byte_that_of_mxnets_writer(tmp_path, image):
    writer = mx.recordio.MXIndexedRecordIO(str(tmp_path / "x.idx"), str(tmp_path / "x.rec"), "w")
    writer.write_idx(7, mx.recordio.pack(mx.recordio.IRHeader(0, 3, 7, 0), image))
    writer.close()
    assert (tmp_path / "x.rec").read_bytes() == packed(3, 7, image)
    assert RecordFile(tmp_path / "x.rec", tmp_path / "x.idx").read(0) == (3, image)


def test_a_strip_that_no_jpeg_can_hold_is_damaged(official, capsys):
    Image.new("RGB", (4000, 1)).save(official / "made" / files.CLASSES[0] / "long.png")
    flags = ("--train", official / "made", "--splits", "train", "--resize", 20)
    assert "long.png: its longer side would have 80,000 pixels" in error(capsys, official, *flags)


def test_resizing_makes_the_shorter_side_as_asked(official, capsys):
    assert prepare(official, "--splits", "train", "--resize", 20, "--quality", 80) == 0
    made, original = imagenet.load(official, use_rec=True, need=("train",)), imagenet.load(official, need=("train",))
    assert len(made.train) == 12
    images.require()
    for index in range(12):
        assert min(images.decode(made.train.read(index)).shape[:2]) == 20
    assert sum(map(len, map(made.train.read, range(12)))) < sum(map(len, map(original.train.read, range(12))))
    assert "another --quality" in error(capsys, official, "--splits", "train", "--resize", 20)


@pytest.mark.parametrize("resize", [(), ("--resize", 20)])
def test_damaged_images_are_refused_by_name_or_left_out_and_counted(official, resize, capsys):
    broken = official / "made" / files.CLASSES[1] / f"{files.CLASSES[1]}_0.JPEG"
    broken.write_bytes(broken.read_bytes()[:300])
    empty = official / "made" / files.CLASSES[2] / f"{files.CLASSES[2]}_4.JPEG"
    empty.write_bytes(b"")
    link = empty.with_name("z.JPEG")
    link.symlink_to(official / "gone.JPEG")
    flags = ("--train", official / "made", "--splits", "train", *resize)
    message = error(capsys, official, *flags)
    assert any(str(path) in message for path in (broken, empty, link)) and "--damaged skip" in message
    assert not (official / "rec" / "train.rec").exists()
    assert prepare(official, *flags, "--damaged", "skip") == 0
    shown = capsys.readouterr().out
    assert f"left out {broken}" in shown and f"left out {empty}" in shown and "10 images" in shown
    left_out = json.loads((official / "rec" / "train.json").read_text())["left_out"]
    assert sorted(left_out) == [str(broken), str(empty), str(link)]
    made = RecordFile(official / "rec" / "train.rec", official / "rec" / "train.idx")
    assert len(made) == 10 and len((official / "rec" / "train.lst").read_text().splitlines()) == 10
    assert prepare(official, *flags, "--damaged", "skip") == 0
    assert "3 damaged ones left out" in capsys.readouterr().out


def test_validation_folders_without_some_classes_keep_the_training_labels(official, capsys):
    files.folder(official / "v", (1, 1), files.CLASSES[1:])
    assert prepare(official, "--val", official / "v") == 0
    assert sorted(imagenet.load(official, use_rec=True).val.labels.tolist()) == [1, 2]
    files.folder(official / "w", (1,), ("strange",))
    assert "none of the 3 classes" in error(capsys, official, "--val", official / "w")


def side_by_side(root):
    """The validation images as GluonCV and Kaggle leave them."""
    (root / "ILSVRC2012_img_val.tar").unlink()
    (root / "val").mkdir()
    for number, name in enumerate(VAL):
        (root / "val" / name).write_bytes(files.jpeg(90 + number))
    (root / "val" / "._x.JPEG").write_bytes(b"of macOS's archiver")


def is_sorted(root):
    return {str(path.relative_to(root / "val")) for path in (root / "val").glob("*/*")} \
        == {f"{label}/{name}" for name, label in zip(VAL, VAL_CLASSES)} and not list((root / "val").glob("I*"))


def test_images_side_by_side_are_sorted_as_the_advice_says(official, capsys, monkeypatch):
    side_by_side(official)
    with pytest.raises(InputError) as advice:
        image_sources.Folders(official / "val")
    assert "--val-labels FILE sorts validation images" in str(advice.value)
    assert "with --val-labels FILE" in error(capsys, official)
    (official / "few.txt").write_text("\n".join(VAL_CLASSES[:-1]))
    assert "5 images and there are 4 labels" in error(capsys, official, "--val-labels", official / "few.txt")

    rename, calls = Path.rename, []

    def stops(path, target):
        calls.append(path)
        if path.name == VAL[2]:
            raise KeyboardInterrupt
        rename(path, target)

    with monkeypatch.context() as context:
        context.setattr(Path, "rename", stops)
        assert prepare(official, "--val-labels", official / "labels.txt") == 130
    with pytest.raises(InputError, match="3 image.s. beside its class folders"):
        imagenet.load(official, need=("val",))
    (official / "other.txt").write_text("\n".join(reversed(VAL_CLASSES[1:] + VAL_CLASSES[:1])))
    assert "in another class" in error(capsys, official, "--val-labels", official / "other.txt")
    assert prepare(official, "--val-labels", official / "labels.txt") == 0
    assert is_sorted(official)
    assert contents(imagenet.load(official).val) == contents(imagenet.load(official, use_rec=True).val)


def test_kaggles_solution_names_the_images(official, capsys):
    side_by_side(official)
    rows = [f"{name[:-5]},{label} 1 2 3 4 {label} 5 6 7 8 " for name, label in zip(VAL, VAL_CLASSES)]
    labels = official / "LOC_val_solution.csv"
    labels.write_text("\n".join(["ImageId,PredictionString", *rows[1:]]) + "\n")
    assert f"{VAL[0]}, which --val-labels does not list" in error(capsys, official, "--val-labels", labels)
    labels.write_text("\n".join(["ImageId,PredictionString", *rows[::-1]]) + "\n")
    assert prepare(official, "--val-labels", labels, "--folders-only") == 0
    assert is_sorted(official)


def test_labels_may_be_the_names_of_the_training_folders(tmp_path, capsys):
    files.folder(tmp_path / "train", (1, 1), ("tiger shark", "tench"))
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "1.png").write_bytes(files.pillow_file("PNG"))
    (tmp_path / "labels.txt").write_text("\ufefftiger shark\n", encoding="utf-8")
    assert prepare(tmp_path, "--val-labels", tmp_path / "labels.txt") == 0
    assert (tmp_path / "val" / "tiger shark" / "1.png").is_file()
    (tmp_path / "val" / "2.png").write_bytes(files.pillow_file("PNG"))
    (tmp_path / "labels.txt").write_text("tiger shark\n../x\n")
    assert "line 2" in error(capsys, tmp_path, "--val-labels", tmp_path / "labels.txt")


def test_unpacking_alone_writes_no_record_files(official):
    assert prepare(official, "--val-labels", official / "labels.txt", "--folders-only") == 0
    assert (official / "val").is_dir() and not (official / "rec").exists()


# --- The labels of the validation images ---


def kit(path, labels=(30, 10, 20, 10, 30), meta=True):
    """A development kit whose numbers are not in the order of the ids."""
    from scipy.io import savemat

    ids = {10: files.CLASSES[0], 20: files.CLASSES[1], 30: files.CLASSES[2], 1001: "n00001740"}
    synsets = np.array(list(ids.items()),
                       dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    content = io.BytesIO()
    savemat(content, {"synsets": synsets})
    members = {"ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt":
               "".join(f"{label}\n" for label in labels).encode()}
    if meta:
        members["ILSVRC2012_devkit_t12/data/meta.mat"] = content.getvalue() if meta is True else meta
    return files.tar(path, members, "w:gz")


def test_the_development_kit_gives_the_labels(official):
    kit(official / "ILSVRC2012_devkit_t12.tar.gz")
    assert prepare(official) == 0
    assert sorted(path.name for path in (official / "val" / files.CLASSES[2]).iterdir()) == [VAL[0], VAL[4]]
    assert contents(imagenet.load(official).val) == contents(imagenet.load(official, use_rec=True).val)


@pytest.mark.parametrize("how, words", [
    ({"labels": (10, 20)}, "5 images and there are 2 labels"), ({"labels": ("x",)}, "no class of meta.mat"),
    ({"labels": (10, 11, 20, 10, 30)}, "no class of meta.mat"), ({"meta": False}, "has no meta.mat"),
    ({"meta": b"junk"}, "meta.mat"), ({"labels": ()}, "no WordNet ids")])
def test_a_kit_that_does_not_fit_is_refused(official, capsys, how, words):
    kit(official / "kit.tar.gz", **how)
    assert words in error(capsys, official, "--val-labels", official / "kit.tar.gz")
    assert not (official / "val").exists()


@pytest.mark.parametrize("text, words", [
    ("", "is empty"), ("490\n361\n", "line 1: 490 is a number"), ("n01440764\nbird\n", "line 2"),
    ("n01440764\n", "1 labels"), ("n01440764\n\udce9\n", "no text file"), ("été\n", "line 1")])
def test_labels_that_are_none_are_refused(official, capsys, text, words):
    (official / "labels.txt").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert words in error(capsys, official, "--val-labels", official / "labels.txt")


def test_labels_are_asked_for(official, capsys):
    assert "--val-labels" in error(capsys, official)
    assert "cannot read" in error(capsys, official, "--val-labels", official / "absent")


# --- Archives that are not what they should be ---


def member(name, **fields):
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize("made", [
    member("../n01440764.tar"), member("/tmp/n01440764.tar"), member("a/n01440764.tar"), member("readme.txt"),
    member("n01440764.tar", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    member("n01440764.tar", type=tarfile.LNKTYPE, linkname="x"), member("n01440764.tar", type=tarfile.CHRTYPE),
    member("n01440764.tar", type=tarfile.FIFOTYPE)], ids=lambda made: f"{made.name} {made.type}")
def test_members_that_do_not_belong_are_refused_and_nothing_is_written(tmp_path, capsys, made):
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w:") as archive:
        archive.addfile(made)
    assert "does not belong" in error(capsys, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["ILSVRC2012_img_train.tar", "train"]
    assert not os.listdir(tmp_path / "train")


@pytest.mark.parametrize("name", ["../x.JPEG", "/x.JPEG", "a/x.JPEG", ".x.JPEG", "x.JPEG/..", "x.exe"])
def test_images_of_a_class_stay_in_its_folder(tmp_path, capsys, name):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:") as archive:
        archive.addfile(member(name, size=4), io.BytesIO(b"data"))
    files.tar(tmp_path / "ILSVRC2012_img_train.tar", {"n01440764.tar": inner.getvalue()})
    message = error(capsys, tmp_path)
    assert "does not belong" in message and "n01440764.tar" in message
    assert not list(tmp_path.rglob("*x.JPEG")) and not (tmp_path / "train" / "n01440764").exists()


def test_archives_that_are_cut_empty_compressed_or_no_archives_are_refused(official, capsys):
    path = official / "ILSVRC2012_img_train.tar"
    whole = path.read_bytes()
    for content in (whole[:len(whole) // 2], whole[:700], b"", b"junk" * 1000, b"\0" * 10240):
        path.write_bytes(content)
        assert str(path) in error(capsys, official, "--splits", "train")
    files.tar(path, {"n01440764.tar": b"junk" * 1000})
    assert "n01440764.tar" in error(capsys, official, "--splits", "train")
    path.unlink()
    val = official / "ILSVRC2012_img_val.tar"
    val.write_bytes(val.read_bytes()[:2000])
    assert str(val) in error(capsys, official, "--val-labels", official / "labels.txt")


def test_an_image_larger_than_any_is_refused(official, capsys, monkeypatch):
    monkeypatch.setattr(imagenet_archives, "MAX_IMAGE", 100)
    assert "more than any image" in error(capsys, official)


def test_a_full_disk_is_said_before_the_work(official, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("U", (), {"free": 1000})())
    assert "GB left" in error(capsys, official)
    assert "packing" in error(capsys, official, "--train", official / "made", "--splits", "train")


def test_a_record_file_that_was_not_written_whole_is_noticed(official, capsys, monkeypatch):
    _is_whole = pack_records._is_whole

    def cut(rec, idx, count):
        rec.write_bytes(rec.read_bytes()[:-100])
        return _is_whole(rec, idx, count)

    monkeypatch.setattr(pack_records, "_is_whole", cut)
    assert "not written whole" in error(capsys, official, "--splits", "train")
    assert not (official / "rec" / "train.rec").exists()


# --- The command ---


def test_nothing_to_prepare_and_paths_that_are_not_there_are_said(tmp_path, capsys):
    assert "nothing to prepare" in error(capsys, tmp_path)
    assert "no such archive" in error(capsys, tmp_path, "--train", tmp_path / "absent.tar")
    (tmp_path / "file").write_text("x")
    assert "file" in error(capsys, tmp_path / "file")


@pytest.mark.parametrize("flags", [["--quality", "90"], ["--resize", "0"], ["--splits", "test"], ["--threads", "x"]])
def test_flags_that_do_not_fit_are_refused(tmp_path, flags, capsys):
    with pytest.raises(SystemExit) as end:
        prepare(tmp_path, *flags)
    assert end.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_two_preparations_of_one_folder_do_not_meet(official, capsys):
    with locked(official / ".prepare.lock"):
        assert "another preparation" in error(capsys, official)


def test_the_script_runs_from_any_folder(official):
    script = ROOT / "scripts" / "prepare_imagenet.sh"
    result = subprocess.run(["bash", str(script), "--data-dir", ".", "--train", "made", "--splits", "train"],
                            cwd=official, capture_output=True, text=True, timeout=120,
                            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
    assert result.returncode == 0, result.stderr
    assert "12 images" in result.stdout and (official / "rec" / "train.rec").is_file()
