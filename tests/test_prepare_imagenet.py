"""engine/prepare_imagenet.py: archives to folders to record files, what is refused, and going on after a stop."""
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import imagenet_files as files
import numpy as np
import pytest

from engine import imagenet, images, prepare_imagenet
from engine.records import RecordFile

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
    assert len(lines) == 1 and lines[0].startswith("error: ")
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
    assert contents(folders.train) == contents(imagenet.folders(official / "made"))
    for number, (name, wanted) in enumerate(zip(VAL, VAL_CLASSES)):
        assert (official / "val" / wanted / name).read_bytes() == files.jpeg(90 + number)
    assert sorted(os.listdir(official / "rec")) == sorted(
        ["synset.txt", *(f"{split}.{kind}" for split in ("train", "val") for kind in ("idx", "json", "lst", "rec"))])
    assert json.loads((official / "rec" / "train.json").read_text())["images"] == 12


def test_a_second_run_does_nothing_and_other_settings_are_refused(official, capsys):
    assert prepare(official, "--val-labels", official / "labels.txt") == 0
    before = {path: path.stat().st_mtime_ns for path in official.rglob("*")
              if path.is_file() and path.name != ".prepare.lock"}
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
    assert "not of this program: left as it is" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_where_it_was(official, monkeypatch, capsys):
    unpack = prepare_imagenet._unpack
    calls = []

    def stops(archive, member, path, where):
        calls.append(member.name)
        if len(calls) == stop:
            raise KeyboardInterrupt
        unpack(archive, member, path, where)

    monkeypatch.setattr(prepare_imagenet, "_unpack", stops)
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


def test_a_folder_whose_name_mxnet_cannot_write_to_is_refused_before_anything_is_unpacked(official, capsys):
    other = official.parent / os.fsdecode(b"\xff")
    official.rename(other)
    assert "only where the whole path is UTF-8; choose another folder" in error(capsys, other)
    assert not (other / "train").exists()


def test_packing_that_is_stopped_leaves_no_record_file(official, monkeypatch, capsys):
    encode = prepare_imagenet._encode

    def stops(tool, settings, index, row):
        if index == 7:
            raise KeyboardInterrupt
        return encode(tool, settings, index, row)

    monkeypatch.setattr(prepare_imagenet, "_encode", stops)
    assert prepare(official, "--splits", "train") == 130
    assert not list((official / "rec").glob("*.rec")) and not list((official / "rec").glob("*.json"))
    monkeypatch.setattr(prepare_imagenet, "_encode", encode)
    assert prepare(official, "--splits", "train") == 0
    assert sorted(path.name for path in (official / "rec").iterdir()) == [
        "synset.txt", "train.idx", "train.json", "train.lst", "train.rec"]


def test_the_record_files_are_im2recs_own(official):
    """To the byte what the tool's two commands give for the same folder."""
    assert prepare(official, "--train", official / "made", "--splits", "train", "--threads", 3) == 0
    tool = prepare_imagenet._im2rec().__file__
    program = """if True:
        import runpy, sys
        from support import runtime
        runtime.prepare()
        tool, *paths = sys.argv[1:]
        for flags in (["--list", "--recursive"], ["--pass-through"]):
            sys.argv = [tool, *flags, *paths]
            runpy.run_path(tool, run_name="__main__")
    """
    (official / "own").mkdir()
    subprocess.run([sys.executable, "-c", program, tool, str(official / "own" / "train"), str(official / "made")],
                   check=True, cwd=ROOT, capture_output=True, timeout=120)
    for kind in ("lst", "idx", "rec"):
        assert (official / "own" / f"train.{kind}").read_bytes() == (official / "rec" / f"train.{kind}").read_bytes()


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
    flags = ("--train", official / "made", "--splits", "train", *resize)
    message = error(capsys, official, *flags)
    assert any(str(path) in message for path in (broken, empty)) and "--damaged skip" in message
    assert not (official / "rec" / "train.rec").exists()
    assert prepare(official, *flags, "--damaged", "skip") == 0
    shown = capsys.readouterr().out
    assert f"left out {broken}" in shown and f"left out {empty}" in shown and "10 images" in shown
    assert sorted(json.loads((official / "rec" / "train.json").read_text())["left_out"]) == [str(broken), str(empty)]
    made = RecordFile(official / "rec" / "train.rec", official / "rec" / "train.idx")
    assert len(made) == 10 and len((official / "rec" / "train.lst").read_text().splitlines()) == 10
    assert prepare(official, *flags, "--damaged", "skip") == 0
    assert "2 damaged ones left out" in capsys.readouterr().out


def test_validation_folders_without_some_classes_keep_the_training_labels(official, capsys):
    files.folder(official / "v", (1, 1), files.CLASSES[1:])
    assert prepare(official, "--val", official / "v") == 0
    assert sorted(imagenet.load(official, use_rec=True).val.labels.tolist()) == [1, 2]
    files.folder(official / "w", (1,), ("strange",))
    assert "none of the 3 classes" in error(capsys, official, "--val", official / "w")


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
    ("n01440764\n", "1 labels"), ("é\n", "no text file")])
def test_labels_that_are_none_are_refused(official, capsys, text, words):
    (official / "labels.txt").write_text(text, encoding="utf-8")
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
    assert sorted(os.listdir(tmp_path)) == [".prepare.lock", "ILSVRC2012_img_train.tar", "train"]
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
    monkeypatch.setattr(prepare_imagenet, "MAX_IMAGE", 100)
    assert "more than any image" in error(capsys, official)


def test_a_full_disk_is_said_before_the_work(official, capsys, monkeypatch):
    monkeypatch.setattr(prepare_imagenet.shutil, "disk_usage", lambda _: type("U", (), {"free": 1000})())
    assert "GB left" in error(capsys, official)
    assert "packing" in error(capsys, official, "--train", official / "made", "--splits", "train")


def test_a_record_file_that_was_not_written_whole_is_noticed(official, capsys, monkeypatch):
    _im2rec = prepare_imagenet._im2rec

    def cutting():
        tool = _im2rec()
        write_list = tool.write_list

        def cut(path, rows):
            write_list(path, rows)
            rec = Path(path.replace(".lst", ".rec"))
            rec.write_bytes(rec.read_bytes()[:-100])

        tool.write_list = cut
        return tool

    monkeypatch.setattr(prepare_imagenet, "_im2rec", cutting)
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
    with prepare_imagenet._alone(official):
        assert "another preparation" in error(capsys, official)


def test_the_script_runs_from_any_folder(official):
    script = ROOT / "scripts" / "prepare_imagenet.sh"
    result = subprocess.run(["bash", str(script), "--data-dir", ".", "--train", "made", "--splits", "train"],
                            cwd=official, capture_output=True, text=True, timeout=120,
                            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
    assert result.returncode == 0, result.stderr
    assert "12 images" in result.stdout and (official / "rec" / "train.rec").is_file()
