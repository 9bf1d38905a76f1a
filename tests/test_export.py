"""Export: each format in its own program, what is refused, what is left on the disk, and scores of exported files."""
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
import tiny
from PIL import Image

import evaluate
import export
import model
from backend import exported
from backend.exported.about import FORMAT, About
from engine.data import cifar, cifar_files, imagenet
from engine.data.class_names import SYNSETS
from engine.data.dataset import Preprocessing
from model.weights import SHIPPED, read_manifest
from support import ROOT
from support.errors import InputError

PLAIN = ["--model", "atac_resnet20_v2", "--blocks", "1", "--dataset", "cifar10"]
SIZES = (1, 2, 128)
SCORED = ("onnx", "pt2")


def needs(name):
    """Skip the test if a format's packages are missing."""
    for package in exported.FORMATS[name].packages:
        pytest.importorskip(package, reason=f"{package} is not installed (requirements-export.txt)")


@pytest.fixture(params=exported.FORMATS)
def name(request):
    needs(request.param)
    return request.param


@pytest.fixture(params=SCORED)
def scored(request):
    needs(request.param)
    return request.param


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.both_cifars(tmp_path_factory.mktemp("data"))


def a_net(net="atac_resnet20_v2", seed=3, **arguments):
    """A net away from the constants of a fresh one."""
    made = tiny.ready(model.get_model(net, **arguments), seed, mode="imperative")
    for parameter in made.collect_params().values():
        if parameter.name.endswith(("running_mean", "bias")):
            parameter.set_data(mx.nd.array(np.linspace(-.2, .2, parameter.shape[0])))
    return made


def settings(net="atac_resnet20_v2", **changes):
    return tiny.saved(None, model=net, arguments={"blocks": 1, "classes": changes.pop("classes", 10)}, **changes)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a net in a file of ours and in one of MXNet, a run's folder, and a file that MXNet cannot read."""
    folder = tmp_path_factory.mktemp("files")
    net = a_net(blocks=1, classes=10)
    tiny.save(folder / "own.params", net, settings())
    net.save_parameters(str(folder / "plain.params"))
    (folder / "a run").mkdir()
    (folder / "a run" / "best.params").write_bytes((folder / "own.params").read_bytes())
    tiny.save(folder / "coarse.params", a_net("resnet20_v2", blocks=1, classes=100),
              settings("resnet20_v2", dataset="cifar100", label_mode="coarse", classes=100))
    (folder / "text.params").write_text("no weights\n" * 9)
    return folder


@pytest.fixture(scope="module")
def nets(files):
    """A folder with own.params in every format that can be scored here."""
    for each in SCORED:
        if all(map(importlib.util.find_spec, exported.FORMATS[each].packages)):
            written(files, files, "own.params", "--format", each)
    return files


def run(folder, *arguments):
    return tiny.call(export.main, *arguments, folder=folder)


def written(files, folder, source, *arguments):
    """Export a file of `files`; returns the lines that were printed."""
    result = run(folder, files / source, *arguments)
    assert result.status == 0, result.err
    return result.out.splitlines()


def refused(result, status, *parts):
    line = tiny.one_sentence(result, status, *parts)
    assert line.startswith("export.py: ")
    return line


def paths_of(name, base):
    return [f"{base}{ending}" for ending in exported.FORMATS[name].endings]


def in_its_own_program(name, base):
    """(forward, texts) of a format's files, read as docs/EXPORT.md does it, without this project's readers."""
    paths = paths_of(name, base)
    if name == "symbol":
        net = mx.gluon.SymbolBlock.imports(paths[0], ["data"], paths[1])
        about = json.loads(json.loads(Path(paths[0]).read_text())["attrs"]["about"][1])
        return lambda images: net(mx.nd.array(images)).asnumpy(), about
    if name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(paths[0])
        return lambda images: session.run(None, {"images": images})[0], session.get_modelmeta().custom_metadata_map
    import torch

    if name == "pt2":
        extra = {"about.json": ""}
        module = torch.export.load(paths[0], extra_files=extra).module()
        about = json.loads(extra["about.json"])
    else:
        from safetensors import safe_open

        with safe_open(paths[0], "pt") as file:
            about, arrays = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        net = model.get_model(about["model"], **json.loads(about["arguments"]))
        net.initialize()
        module = model.to_torch(net).eval()
        module.load_state_dict(arrays)
    return lambda images: module(torch.from_numpy(images)).detach().numpy(), about


# What is written.

def test_every_format_answers_as_the_net_in_its_own_program_with_any_batch(files, tmp_path, name):
    lines = written(files, tmp_path, "own.params", "--format", name)
    assert lines[0].startswith("atac_resnet20_v2, blocks=1, classes=10, ") and "a file of this project" in lines[0]
    assert re.match(r"checked: .* answers 131 test images of CIFAR-10, in batches of 1, 2 and 128, as the net does: "
                    r"the same class for each, and logits that differ by at most [\d.e-]+ of the largest$", lines[1])
    assert lines[2:] == [f"{path}: {os.path.getsize(tmp_path / path):,} bytes" for path in paths_of(name, "own")]
    assert sorted(os.listdir(tmp_path)) == sorted(paths_of(name, "own"))
    forward, about = in_its_own_program(name, tmp_path / "own")
    net = a_net(blocks=1, classes=10)
    for count in SIZES:
        images = np.random.RandomState(count).normal(0, 1, (count, 3, 32, 32)).astype("float32")
        expected = net(mx.nd.array(images)).asnumpy()
        assert forward(images).shape == (count, 10)
        assert abs(forward(images) - expected).max() < 1e-5 * abs(expected).max()
    assert about["format"] == FORMAT and about["model"] == "atac_resnet20_v2" and about["dataset"] == "cifar10"
    assert json.loads(about["arguments"]) == settings().experiment.net
    assert json.loads(about["class_names"]) == list(cifar_files.CIFAR10_CLASSES)
    assert json.loads(about["preprocessing"]) == {
        "size": 32, "shorter": 32, "resize": "bicubic", "mean": [.4914, .4822, .4465], "std": [.2023, .1994, .2010]}


def test_a_file_of_another_program_is_exported_with_flags_and_a_runs_folder_by_its_best_params(files, tmp_path):
    refused(run(tmp_path, files / "plain.params", "--format", "symbol"), 1, "plain.params holds weights only: name its")
    written(files, tmp_path, "plain.params", "--format", "symbol", *PLAIN)
    written(files, tmp_path, "a run", "--format", "symbol", "--out", tmp_path)
    images = np.random.RandomState(0).normal(0, 1, (2, 3, 32, 32)).astype("float32")
    (one, about), (other, same) = (in_its_own_program("symbol", tmp_path / base) for base in ("plain", "a run"))
    assert about == same and (one(images) == other(images)).all()
    assert len(os.listdir(tmp_path)) == 4


def test_nothing_of_this_machine_is_in_a_file(files, tmp_path, name):
    written(files, tmp_path, "own.params", "--format", name)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert str(ROOT).encode() not in content and sys.prefix.encode() not in content and b".py" not in content, path


def test_nothing_in_an_exported_program_is_pickled(files, tmp_path):
    needs("pt2")
    written(files, tmp_path, "own.params", "--format", "pt2")
    with zipfile.ZipFile(tmp_path / "own.pt2") as archive:
        names = archive.namelist()
        assert not [name for name in names if name.endswith((".pt", ".pkl")) and archive.getinfo(name).file_size]
        config, = (archive.read(name) for name in names if name.endswith("model_weights_config.json"))
        assert b'"use_pickle": true' not in config and b'"use_pickle"' in config


def test_the_weights_alone_are_under_the_modules_names_and_go_back_into_a_gluon_net(files, tmp_path):
    needs("safetensors")
    from safetensors.torch import load_file

    written(files, tmp_path, "own.params", "--format", "safetensors")
    arrays, net = load_file(tmp_path / "own.safetensors"), a_net(blocks=1, classes=10)
    assert {"features.2.0.conv1.weight", "features.2.0.act1.gate.4.running_var", "output.bias"} <= set(arrays)
    assert set(arrays) == {key for key in model.to_torch(net).state_dict() if not key.endswith("num_batches_tracked")}
    other = model.from_torch(a_net(seed=4, blocks=1, classes=10), arrays)
    for key, values in tiny.numbers_of(net).items():
        assert (tiny.numbers_of(other)[key] == values).all()


def test_a_sound_onnx_file_of_the_opset_that_is_stated(files, tmp_path):
    needs("onnx")
    import onnx

    written(files, tmp_path, "own.params", "--format", "onnx")
    made = onnx.load(tmp_path / "own.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert [(each.domain, each.version) for each in made.opset_import] == [("", exported.OPSET)]
    (entry,), (end,) = made.graph.input, made.graph.output
    assert (entry.name, end.name) == ("images", "logits")
    assert [length.dim_param or length.dim_value for length in entry.type.tensor_type.shape.dim] == ["batch", 3, 32, 32]


@pytest.mark.slow
def test_other_data_and_sizes_of_images(tmp_path):
    needs("pt2")
    net = a_net("resnet50_v1b", classes=6)
    net(mx.nd.zeros((1, 3, 64, 64)))
    net.save_parameters(str(tmp_path / "large.params"))
    for label in "abcdef":
        (tmp_path / "data" / "val" / label).mkdir(parents=True)
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "data" / "val" / label / "x.png")
    lines = written(tmp_path, tmp_path, "large.params", "--format", "pt2", "--model", "resnet50_v1b", "--dataset",
                    "folder", "--data-dir", tmp_path / "data", "--input-size", "64", "--crop-ratio", ".5")
    assert " answers 11 test images of CIFAR-10, enlarged to 64 x 64, in batches of 1, 2 and 8, " in lines[1]
    forward, about = in_its_own_program("pt2", tmp_path / "large")
    prepared = json.loads(about["preprocessing"])
    assert (prepared["size"], prepared["shorter"], prepared["resize"]) == (64, 128, "bilinear")
    assert np.allclose(prepared["mean"], [.485, .458, .4076], atol=1e-4)
    assert json.loads(about["class_names"]) == list("abcdef")
    result = tiny.call(evaluate.main, "--params", "large.pt2", "--data-dir", "data", "--json", "x", folder=tmp_path)
    assert result.status == 0, result.err
    record = json.loads((tmp_path / "x").read_text())
    assert (record["input_size"], record["crop_ratio"], record["images"]) == (64, .5, 6)
    tiny.one_sentence(tiny.call(evaluate.main, "--params", "large.pt2", "--input-size", "96", "--data-dir", "data",
                                folder=tmp_path), 1, "large.pt2 takes images of 64 pixels, not 96")


def test_the_preprocessing_in_words_is_what_the_data_sets_do():
    """Of an image that needs no scaling, all of it follows from the five values."""
    options = type("Options", (), {"data_dir": None, "label_mode": None, "mirror": None, "crop_ratio": 1.})
    for data, size in ((cifar.CifarSet("cifar10", options), 32), (imagenet.ImageNetSet("imagenet", options), 64)):
        options.input_size = size
        data.size = size
        picture = np.random.RandomState(0).randint(0, 256, (size, size, 3)).astype(np.uint8)
        made = data.preprocessing
        assert (made.size, made.shorter) == (size, size)
        expected = (picture[..., ::-1] / 255 - np.array(made.mean)) / np.array(made.std)
        assert np.allclose(data.pixels(picture)[0], expected.transpose(2, 0, 1), atol=1e-5)


def test_the_pictures_to_compare_on_may_be_ones_own(files, tmp_path):
    pictures = [tmp_path / "a.png", tmp_path / "b.jpg"]
    for path in pictures:
        Image.fromarray(np.random.RandomState(0).randint(0, 256, (50, 40, 3)).astype(np.uint8)).save(path)
    lines = written(files, tmp_path, "own.params", "--format", "symbol", "--images", *pictures)
    assert " answers 2 pictures, in batches of 1, 2 and 128, as the net does" in lines[1]
    refused(run(tmp_path, files / "own.params", "--format", "symbol", "--images", files / "text.params"), 1,
            "text.params: it is not an image that can be read")


# Where it is written.

@pytest.mark.parametrize("out, names", [
    ([], ["own-0000.params", "own-symbol.json"]), (["--out", "x"], ["x-0000.params", "x-symbol.json"]),
    (["--out", "x-symbol.json"], ["x-0000.params", "x-symbol.json"]),
    (["--out", "x-0000.params"], ["x-0000.params", "x-symbol.json"]),
    (["--out", "../out"], ["own-0000.params", "own-symbol.json"])])
def test_names_of_the_files(files, tmp_path, out, names):
    (tmp_path / "out").mkdir()
    written(files, tmp_path / "out", "own.params", "--format", "symbol", *out)
    assert sorted(os.listdir(tmp_path / "out")) == names


@pytest.mark.parametrize("arguments, status, parts", [
    ([], 2, ["required: NAME|FILE|RUN, --format"]),
    (["own.params"], 2, ["required: --format"]),
    (["own.params", "--format", "tflite"], 2, ["--format: invalid choice: 'tflite' (choose from"]),
    (["own.params", "--format", "onnx", "--out", "net.pt2"], 2, ["net.pt2: a file of --format onnx ends in .onnx"]),
    (["own.params", "--format", "onnx", "--out", ".onnx"], 2, ["--out .onnx: name a file"]),
    (["own.params", "--format", "onnx", "--out", "none/net.onnx"], 2, ["none/net.onnx: that folder does not exist"]),
    (["own.params", "--format", "symbol", "--out", ""], 2, ["--out: it is empty"]),
    (["none.params", "--format", "symbol"], 1, ["none.params cannot be read: No such file"]),
    (["none/none", "--format", "symbol"], 1, ["none/none cannot be read: No such file"]),
    (["atac_resnet20", "--format", "symbol"], 1, ["no pretrained weights called 'atac_resnet20'", "manifest.json has"]),
    (["text.params", "--format", "symbol"], 1, ["text.params is not a usable parameter file"]),
    ([".", "--format", "symbol"], 1, [". is a folder without best.params"]),
    (["own.params", "--format", "symbol", "--model", "nin"], 1, ["was trained with --model atac_resnet20_v2, not nin"]),
    (["own.params", "--format", "symbol", "--input-size", "64"], 2, ["--input-size is for imagenet and folder"]),
    (["plain.params", "--format", "symbol", "--model", "x", "--dataset", "cifar10"], 2, ["unknown model 'x'"]),
    (["plain.params", "--format", "symbol", "--model", "nin", "--blocks", "1", "--dataset", "cifar10"], 1,
     ["plain.params does not fit this net"]),
    (["own.params", "--format", "symbol", "--out", "/proc/x"], 1, ["/proc/x-symbol.json cannot be written"])])
def test_what_does_not_fit_is_one_sentence_and_writes_nothing(files, arguments, status, parts):
    before = sorted(os.listdir(files))
    refused(run(files, *arguments), status, *parts)
    assert sorted(os.listdir(files)) == before


def test_files_that_are_there_are_replaced_whole(files, tmp_path):
    paths = paths_of("symbol", "own")
    for path in paths:
        (tmp_path / path).write_bytes(b"x" * 9_999_999)
    written(files, tmp_path, "own.params", "--format", "symbol")
    assert in_its_own_program("symbol", tmp_path / "own")[1]["model"] == "atac_resnet20_v2"
    assert sorted(os.listdir(tmp_path)) == sorted(paths)
    assert all((tmp_path / path).stat().st_size < 999_999 for path in paths)


def test_a_net_that_answers_differently_is_not_written(files, tmp_path, monkeypatch, name):
    code = exported.format_module(name)
    sound, other = code.make, a_net(seed=4, blocks=1, classes=10)
    if name != "symbol":
        from backend.exported.nets import module_of
        other = module_of(other)
    monkeypatch.setattr(code, "make", lambda net, about: sound(other, about))
    paths = [tmp_path / path for path in paths_of(name, "own")]
    for path in paths:
        path.write_text("before")
    line = refused(run(tmp_path, files / "own.params", "--format", name), 1, "does not answer 131 test images of ",
                   "of 131 answers have another class", "(0.0001 is allowed); nothing was written")
    assert float(re.search(r"difference is (\S+) of", line).group(1)) > .01
    assert sorted(tmp_path.iterdir()) == sorted(paths) and all(path.read_text() == "before" for path in paths)


def test_one_weight_of_a_thousand_that_is_off_is_found(files, tmp_path, monkeypatch):
    """The comparison sees small damage, not only another net."""
    code = exported.format_module("symbol")
    sound, other = code.make, a_net(blocks=1, classes=10)
    weight = other.output.weight.data().asnumpy()
    weight[3, 5] *= 1.05
    other.output.weight.set_data(mx.nd.array(weight))
    monkeypatch.setattr(code, "make", lambda net, about: sound(other, about))
    refused(run(tmp_path, files / "own.params", "--format", "symbol"), 1, "does not answer 131 test images")
    assert os.listdir(tmp_path) == []


def test_a_missing_package_is_named_with_the_command_that_installs_it(files, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(exported.importlib.util, "find_spec",
                        lambda name, *rest: None if name.startswith("onnx") else find(name, *rest))
    refused(run(tmp_path, files / "own.params", "--format", "onnx"), 1, "--format onnx needs ", "onnx, onnxscript, "
            "onnxruntime, not installed here: .venv/bin/python -m pip install -r requirements-export.txt")
    (tmp_path / "net.onnx").write_bytes(b"x")
    tiny.one_sentence(tiny.call(evaluate.main, "--params", "net.onnx", folder=tmp_path), 1,
                      "a .onnx file needs onnxruntime, not installed here: .venv/bin/python -m pip install")


def test_the_script_is_the_program(tmp_path):
    name = "nin_resnet20_v2_b1_cifar10"
    done = subprocess.run(["sh", str(ROOT / "scripts" / "export.sh"), name, "--format", "symbol"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0 and "as the net does" in done.stdout, done.stderr
    assert sorted(os.listdir(tmp_path)) == sorted(paths_of("symbol", name))


def without_numbers(text):
    return re.sub(r"\d\S*", "#", text)


@pytest.mark.slow
def test_the_page_shows_what_is_printed_and_its_code_loads_every_format(tmp_path):
    page, name = (ROOT / "docs" / "EXPORT.md").read_text(), "atac_resnet20_v2_b1_cifar10"
    blocks = re.findall("```python\n# (\\w+).*?\n(.*?)```", page, re.DOTALL)
    assert [title for title, _ in blocks] == ["pt2", "onnx", "safetensors", "symbol", "CIFAR"]
    for each, known in exported.FORMATS.items():
        assert all(f"NAME{ending}`" in page for ending in known.endings)
        needs(each)
        line = run(tmp_path, ROOT / "params" / f"{name}.params", "--format", each).out.splitlines()[1]
        assert line.startswith("checked: ") and without_numbers(line) in without_numbers(page)
    pixels = np.random.RandomState(0).randint(0, 256, (50, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    code = "\n".join(["import numpy as np", "found = []",
                      "images = np.linspace(-1, 1, 6144, dtype='f').reshape(2, 3, 32, 32)",
                      *(block + "found.append((logits, dict(about)))\n" for _, block in blocks[:-1]), blocks[-1][1],
                      "assert len(found) == 4 and all(abs(x - found[0][0]).max() < 1e-4 for x, _ in found)",
                      "assert all(about == found[0][1] for _, about in found)", "np.save('image.npy', image)"])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    options = type("Options", (), {"data_dir": None, "label_mode": None, "mirror": None})
    expected = cifar.CifarSet("cifar10", options).pixels(pixels[..., ::-1])
    assert np.allclose(np.load(tmp_path / "image.npy"), expected, atol=1e-5)


# Scores of exported files.

def record_of(folder, *arguments):
    result = tiny.call(evaluate.main, "--gpus", "", "--json", "record.json", *arguments, folder=folder)
    assert result.status == 0, result.err
    return json.loads((folder / "record.json").read_text()), result.out


def test_an_exported_file_has_the_score_of_its_net(nets, data, scored):
    expected, _ = record_of(nets, "--params", "own.params", "--data-dir", data)
    for more in ([], ["--batch-size", "7"], PLAIN):
        found, out = record_of(nets, "--params", f"own.{scored}", "--data-dir", data, *more)
        for field in ("top1", "top5", "images", "classes", "model", "arguments", "dataset", "data_sha256"):
            assert found[field] == expected[field], field
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["form"].startswith("ONNX Runtime " if scored == "onnx" else "PyTorch ") and found["form"] in out
    assert f"inner_relu=True: an exported net, own.{scored}\n" in out


def test_pictures_are_classified_alike(nets, tmp_path, scored):
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (50, 40, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    found = [record_of(nets, "--params", f"own.{ending}", "--images", tmp_path / "a.png")[0]
             for ending in ("params", scored)]
    assert found[0]["classes"] == found[1]["classes"]
    assert found[0]["probabilities"] == pytest.approx(found[1]["probabilities"], rel=1e-4)


def test_twenty_labels_under_a_hundred_outputs(files, data, tmp_path, scored):
    written(files, tmp_path, "coarse.params", "--format", scored)
    expected, _ = record_of(files, "--params", "coarse.params", "--data-dir", data)
    found, _ = record_of(tmp_path, "--params", f"coarse.{scored}", "--data-dir", data)
    assert found["label_mode"] == "coarse" and found["classes"] == expected["classes"] and len(found["classes"]) == 20


@pytest.mark.parametrize("arguments, parts", [
    (["--model", "nin"], ["was trained with --model atac_resnet20_v2, not nin_resnet20_v2; leave --model out"]),
    (["--dataset", "cifar100"], ["was trained with --dataset cifar10, not cifar100"]),
    (["--classes", "20"], ["holds a net with classes=10, not 20"]),
    (["--backend", "torch"], ["--backend computes parameter files", "leave it out"])])
def test_flags_that_contradict_an_exported_file(nets, scored, arguments, parts):
    result = tiny.call(evaluate.main, "--params", f"own.{scored}", *arguments, folder=nets)
    tiny.one_sentence(result, 1, f"own.{scored}", *parts)


def sentence_of(path, data):
    """The sentence with which evaluate.py refuses a file."""
    result = tiny.call(evaluate.main, "--params", path.name, "--data-dir", data, folder=path.parent)
    assert len(re.sub("CIFAR-10: not the official files.*\n", "", result.err).splitlines()) == 1, result.err
    return tiny.one_sentence(result, 1, path.name)


def test_damaged_and_other_files_are_one_sentence(nets, data, tmp_path, scored):
    whole = (nets / f"own.{scored}").read_bytes()
    path = tmp_path / f"net.{scored}"
    for content in (b"", b"no net\n" * 99, *(whole[:len(whole) * share // 9] for share in range(1, 9)), whole[:-1],
                    (nets / "own.params").read_bytes()):
        path.write_bytes(content)
        assert re.search(f"net.{scored} (cannot be loaded .*; export it again|was not written by scripts/export.sh)",
                         sentence_of(path, data)), content[:20]
    path.unlink()
    assert "cannot be read: No such file" in sentence_of(path, data)
    os.mkfifo(path)
    assert "cannot be read: it is no regular file" in sentence_of(path, data)


def test_a_foreign_onnx_file_is_one_sentence(data, tmp_path):
    needs("onnx")
    from onnx import TensorProto, helper, save

    def saved(**texts):
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 32, 32])
                for name in (texts.pop("entry", "images"), "logits")]
        graph = helper.make_graph([helper.make_node("Relu", [ends[0].name], ["logits"])], "net", ends[:1], ends[1:])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        helper.set_model_props(made, texts)
        save(made, tmp_path / "net.onnx")
        return sentence_of(tmp_path / "net.onnx", data)

    preprocessing = Preprocessing(32, 32, "bicubic", (.5, .5, .5), (.2, .2, .2))
    ours = About("atac_resnet20_v2", {"classes": 10}, "cifar10", None, cifar_files.CIFAR10_CLASSES, preprocessing)
    texts = ours.as_texts()
    foreign = "was not written by scripts/export.sh: it does not say which net it holds"
    assert foreign in saved() and foreign in saved(producer="another") and foreign in saved(format="another 1")
    assert "answers 40 images with an array (40, 3, 32, 32)" in saved(**texts)
    assert "has the inputs and outputs (['x'], ['logits'])" in saved(**texts, entry="x")
    for field, value, words in (
            ("model", "resnet9", "unknown model 'resnet9'"), ("arguments", "[]", "arguments is not an object"),
            ("arguments", "{}", "arguments has no 'classes'"), ("arguments", '{"classes": 0}', "not a whole number"),
            ("arguments", "{", "no JSON at line 1"), ("arguments", '{"classes": 5}', "too few for the 10 labels"),
            ("dataset", "mnist", "dataset is not one of cifar10"), ("class_names", "[1]", "class_names[0] is not text"),
            ("label_mode", "rough", "label_mode is not one of coarse, fine"),
            ("preprocessing", '{"size": 32}', "preprocessing has no 'shorter'")):
        assert words in saved(**{**texts, field: value}), field
    del texts["preprocessing"]
    assert "it has no 'preprocessing'" in saved(**texts)


def test_a_foreign_archive_is_refused_before_pytorch_reads_it(data, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.export, "load", lambda *_, **__: pytest.fail("PyTorch has read a stranger's file"))
    for texts in (None, "", "[]", '{"format": 1}', '{"format": "another 1"}', '{"format": {}}'):
        with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
            archive.writestr("archive/models/model.json", "{}")
            if texts is not None:
                archive.writestr("archive/extra/about.json", texts)
        assert "net.pt2 " in sentence_of(tmp_path / "net.pt2", data)


def test_classes_of_imagenet_are_known_by_their_ids():
    options = type("Options", (), {"input_size": None, "crop_ratio": None, "data_dir": None})
    names = imagenet.ImageNetSet("imagenet", options).class_names(1000)
    about = About("resnet50_v1b", {"classes": 1000}, "imagenet", None, names,
                  Preprocessing(224, 256, "bilinear", (.5, .5, .5), (.2, .2, .2)))
    again = About.from_texts(about.as_texts(), "net.onnx")
    assert again == about and names[0] == "n01440764 tench" and again.known.class_names == SYNSETS
    data = imagenet.ImageNetSet("imagenet", options, again.known)
    assert data.complete("resnet50_v1b", {"classes": 1000}, 224) == {"classes": 1000}
    assert data.preprocessing.shorter == 256 and data.class_names(1000) == names
    with pytest.raises(InputError, match="was not written by"):
        About.from_texts({}, "net.onnx")


def test_requirements_agree_with_those_of_the_benchmarks_and_of_the_error():
    def pins(file):
        return [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]

    own = pins("requirements-export.txt")
    assert set(pins("requirements-bench.txt")) < set(own)
    assert {re.split("[=;]", line)[0] for line in own} - {"numpy", "-r requirements-torch.txt"} == {
        package for known in exported.FORMATS.values() for package in known.packages} - {"torch"}
    assert exported.INSTALL.endswith(" requirements-export.txt")


# All nets.

SHIPPED_NETS = [entry["name"] for entry in read_manifest(SHIPPED / "manifest.json")
                if (SHIPPED / entry["file"]).is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("shipped", SHIPPED_NETS)
def test_shipped_nets_have_the_same_accuracy_in_onnx_runtime_on_the_whole_sample(tmp_path, shipped):
    needs("onnx")
    assert run(tmp_path, shipped, "--format", "onnx").status == 0
    expected, _ = record_of(tmp_path, "--pretrained", shipped, "--data-dir", cifar.SAMPLE)
    found, _ = record_of(tmp_path, "--params", f"{shipped}.onnx", "--data-dir", cifar.SAMPLE)
    assert found["images"] == expected["images"] == 1017
    assert found["top1"] == expected["top1"] > .4 and found["classes"] == expected["classes"]


@pytest.mark.slow
@pytest.mark.parametrize("net", [net for net in model.list_models() if not net.endswith("_v1")])
def test_every_net_in_onnx_runtime(tmp_path, net):
    """The other formats have no operators of their own: pt2 has PyTorch's, which are exported here, symbol MXNet's."""
    needs("onnx")
    size = 32 if model.image_size(net, {}) == 32 else 64
    arguments = {"blocks": 1} if size == 32 else {}
    if "input_size" in model.complete_arguments(net, {}):
        arguments["input_size"] = size
    made = a_net(net, classes=10, **arguments)
    made(mx.nd.random.normal(0, 1, (2, 3, size, size)))
    made.save_parameters(str(tmp_path / "net.params"))
    flags = ["--blocks", "1"] if size == 32 else ["--input-size", size, "--classes", "10"]
    lines = written(tmp_path, tmp_path, "net.params", "--format", "onnx", "--model", net, "--dataset",
                    "cifar10" if size == 32 else "imagenet", *flags)
    assert f", in batches of 1, 2 and {128 if size == 32 else 8}, as the net does" in lines[1]
    if net == "atac_resnet50_v1b":
        images = np.random.RandomState(0).normal(0, 1, (128, 3, size, size)).astype("float32")
        found, expected = in_its_own_program("onnx", tmp_path / "net")[0](images), made(mx.nd.array(images)).asnumpy()
        assert abs(found - expected).max() < 1e-4 * abs(expected).max()
