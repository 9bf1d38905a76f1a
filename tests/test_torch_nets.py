"""The networks without MXNet: graphs from a file, torch.hub, the programs."""
import json
import lzma
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest
import tiny

torch = pytest.importorskip("torch", reason="PyTorch is not installed (requirements-torch.txt)")

import model  # noqa: E402
from backend.torch import nets  # noqa: E402
from model import graph_file  # noqa: E402
from reproduce import graphs  # noqa: E402
from support import ROOT  # noqa: E402
from support.errors import InputError  # noqa: E402

SHIPPED = "atac_resnet20_v2_b1_cifar10"
# Python without MXNet and GluonCV, from the first import on.
WITHOUT = """
import runpy, sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = classmethod(lambda cls, name, path=None, target=None:
                                   None if name.split(".")[0] in ("mxnet", "gluoncv") else find(name, path, target))
sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "MXNetFinder"]
sys.path.insert(0, ".")
"""
PROGRAM = WITHOUT + "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"


def without_mxnet(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


# The file.

@pytest.mark.slow
def test_the_file_holds_the_nets_as_they_are_now():
    found = {(each["model"], json.dumps(each["arguments"])): each["graph"] for each in graph_file.read()}
    expected = {key: json.loads(text) for key, text in graphs.traced().items()}
    assert found == expected, "write it again: python -m reproduce graphs"


@pytest.mark.parametrize("name, arguments", [
    ("atac_resnet20_v2", {"blocks": 1}), ("prelu_resnet20_v2", {"blocks": 2, "classes": 100}),
    ("ge_resnet50_v1b", {"classes": 7}), ("fa_resnet50_v1", {"last_gamma": True})])
def test_a_graph_is_the_nets(name, arguments):
    net, graph = model.get_model(name, **arguments), nets.get_model(name, **arguments)
    size = (3, 224, 224) if "50" in name else (3, 32, 32)
    assert model.complexity.count(graph, size) == model.complexity.count(net, size)
    expected = {path: (parameter.shape, parameter.grad_req != "null")
                for path, parameter in net._collect_params_with_prefix().items()}
    assert {path: (parameter.shape, parameter.trained) for path, parameter in graph.parameters.items()} == expected


def test_every_name_has_its_graph_and_shipped_weights_are_loaded():
    for name in model.list_models():
        assert nets.get_model(name, classes=3).parameters
    found = model.to_torch(nets.get_model("atac_resnet20_v2", pretrained=True, blocks=1)).state_dict()
    expected = model.to_torch(model.get_model("atac_resnet20_v2", pretrained=True, blocks=1)).state_dict()
    assert list(found) == list(expected) and all((found[name] == expected[name]).all() for name in found)


def test_weights_of_any_kind_are_loaded_and_given_back(tmp_path):
    net = tiny.ready(model.get_model("atac_resnet20_v2", blocks=1))
    net(mx.nd.zeros((1, 3, 32, 32)))  # export needs a pass
    net.save_parameters(str(tmp_path / "gluon.params"))
    net.export(str(tmp_path / "net"))
    said = []
    for file in ("gluon.params", "net-0000.params"):
        graph = nets.get_model("atac_resnet20_v2", blocks=1)
        nets.load_params(graph, tmp_path / file, say=said.append)
        for name, parameter in net._collect_params_with_prefix().items():
            np.testing.assert_array_equal(graph.arrays[name], parameter.data().asnumpy())
    assert "the names of save_parameters" in said[0] and "the names of export" in said[1]
    other = nets.get_model("atac_resnet20_v2", blocks=1, classes=4)
    with pytest.raises(InputError, match="does not fit this net: 2 differ in shape"):
        nets.load_params(other, tmp_path / "gluon.params")
    assert other.arrays == {}
    nets.load_params(other, tmp_path / "gluon.params", ignore_output=True, say=None)
    assert "output.weight" not in other.arrays and "features.0.gamma" in other.arrays
    twin = model.to_torch(net)
    assert model.from_torch(nets.get_model("atac_resnet20_v2", blocks=1), twin.state_dict()).arrays.keys() \
        == net._collect_params_with_prefix().keys()


@pytest.mark.parametrize("arguments, sentence", [
    ({"blocks": 9}, r"atac_resnet20_v2 with blocks=9 is built by MXNet alone, which is not installed; graphs.xz holds"),
    ({"blocks": 1, "reduction": 4}, "with reduction=4 is built by MXNet alone")])
def test_a_net_that_the_file_lacks_is_refused(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        nets.get_model("atac_resnet20_v2", **arguments)


@pytest.mark.parametrize("content, reason", [
    (None, "No such file"), (b"", "ended before"), (b"text", "not supported by decoder|Input format"),
    (lzma.compress(b"{"), "Expecting"), (lzma.compress(b"[]"), "list"),
    (lzma.compress(b'{"format": 7}'), "its format is 7"),
    (graph_file.FILE.read_bytes()[:5000], "ended before")])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, content, reason):
    path = tmp_path / "graphs.xz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"graphs.xz cannot be used: .*({reason}).*restore it from the repository"):
        graph_file.read(path)


# torch.hub.

HUB = WITHOUT + """
import torch
net = torch.hub.load(".", "atac_resnet20_v2", source="local", blocks=1, pretrained=True).eval()
print(net(torch.zeros(1, 3, 32, 32)).shape, next(iter(net.state_dict())))
for seed in (0, 0, 1):
    drawn = torch.hub.load(".", "resnet50_v1b", source="local", classes=5, seed=seed)
    print(float(drawn.state_dict()["fc.weight"].std()))
try:
    torch.hub.load(".", "atac_resnet20_v2", source="local", pretrained=True)
except ValueError as error:
    print(error)
assert "mxnet" not in sys.modules
"""


def test_hub_gives_the_nets_without_mxnet():
    done = without_mxnet(HUB)
    assert done.returncode == 0, done.stderr
    shape, *deviations, refusal = done.stdout.splitlines()
    assert shape == "torch.Size([1, 10]) features.0.weight"
    assert deviations[0] == deviations[1] != deviations[2]
    assert refusal.startswith("no pretrained weights for atac_resnet20_v2 with blocks=3")


# The programs.

@pytest.mark.slow
def test_the_programs_evaluate_and_train_without_mxnet(tmp_path):
    data = tiny.cifar10(tmp_path / "data")
    run = ["train_cifar.py", *tiny.TINY_NET, "--num-epochs", "1", "--batch-size", "16", "--lr-decay-epoch", "1",
           "--data-dir", data, "--save-dir", tmp_path / "run", "--gpus", ""]
    done = without_mxnet(PROGRAM, *run)
    assert done.returncode == 0, done.stderr
    assert "MXNet is not installed: PyTorch computes" in done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["environment"]["net"].endswith("a new run's first weights are drawn by NumPy")
    done = without_mxnet(PROGRAM, *run, "--num-epochs", "2", "--resume")
    assert done.returncode == 0, done.stderr
    done = without_mxnet(PROGRAM, "evaluate.py", "--params", tmp_path / "run" / "last.params", "--data-dir", data)
    assert done.returncode == 0 and "top-1 accuracy" in done.stdout, done.stderr
    done = without_mxnet(PROGRAM, *run[:-4], "--save-dir", tmp_path / "no", "--backend", "gluon")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "mxnet is installed without its files" in done.stderr and "scripts/setup.sh" in done.stderr
