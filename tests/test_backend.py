"""--backend: which one is taken, and that the programs give the same with both."""
import json

import pytest
import tiny

import backend
import evaluate
import train_cifar
from support import cuda, python
from support.errors import InputError

HOPPER = [("NVIDIA H100", 9, 0)]
SHORT = ["--gpus", "", *tiny.TINY_NET, "--num-epochs", "2", "--batch-size", "16", "--lr-decay-epoch", "1"]


@pytest.fixture
def machine(monkeypatch):
    """machine(gpus, build, torch): what this machine is said to have; build None for no MXNet."""
    def made(gpus=(), build=python.CPU_BUILD, torch=True):
        def installed_build():
            if build is None:
                raise InputError("MXNet is not installed")
            return build

        monkeypatch.setattr(cuda, "gpu_capabilities", lambda: list(gpus))
        monkeypatch.setattr(python, "installed_build", installed_build)
        monkeypatch.setattr(python, "torch_alone", lambda: build is None and torch)
        monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: torch or None)
        monkeypatch.setattr(backend.importlib, "import_module", lambda name: name)
    return made


@pytest.mark.parametrize("there, name, part", [
    ({}, "gluon", None), ({"gpus": HOPPER}, "torch", "this MXNet cannot use NVIDIA H100 (9.0): PyTorch computes"),
    ({"gpus": HOPPER, "torch": False}, "gluon", "with PyTorch the GPU would (run `bash scripts/setup.sh --torch`)"),
    ({"gpus": HOPPER, "build": python.GPU_BUILD}, "torch", "cannot use NVIDIA H100"),
    ({"gpus": [("NVIDIA A100", 8, 0)], "build": python.GPU_BUILD}, "gluon", None),
    ({"gpus": [("NVIDIA A100", 8, 0)]}, "torch", "cannot use NVIDIA A100")])
def test_auto_takes_pytorch_where_this_mxnet_cannot_use_the_gpu(machine, caplog, there, name, part):
    machine(**there)
    with caplog.at_level("INFO"):
        assert backend.choose("auto") == f"backend.{name}"
    assert (part or "") in caplog.text and bool(part) == bool(caplog.text)
    assert backend.choose("auto", on_gpu=False) == "backend.gluon"


def test_what_is_asked_for_is_taken(machine):
    machine(HOPPER)
    assert (backend.choose("gluon"), backend.choose("torch")) == ("backend.gluon", "backend.torch")
    machine(torch=False)
    with pytest.raises(InputError, match="^--backend torch: PyTorch is not installed; run `.*setup.sh --torch`"):
        backend.choose("torch")


def test_without_mxnet_pytorch_computes(machine, caplog):
    machine(build=None)
    with caplog.at_level("INFO"):
        assert backend.choose("auto", on_gpu=False) == "backend.torch"
    assert caplog.messages == ["MXNet is not installed: PyTorch computes"]
    assert backend.networks() == "backend.torch.nets"
    with pytest.raises(InputError, match="MXNet is not installed"):
        backend.choose("gluon")
    machine(build=None, torch=False)
    with pytest.raises(InputError, match="MXNet is not installed"):
        backend.choose("auto")


def test_a_run_begun_in_one_backend_is_resumed_and_evaluated_in_the_other(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    data = tiny.cifar10(tmp_path / "data")
    metrics = {}
    for first, second in (("gluon", "torch"), ("torch", "gluon")):
        folder = tmp_path / first
        for name, epochs in ((first, "1"), (second, "2")):
            result = tiny.call(train_cifar.main, *SHORT, "--num-epochs", epochs, "--backend", name, "--data-dir", data,
                               "--save-dir", folder, "--resume", folder=tmp_path)
            assert result.status == 0, result.err
        assert "the run so far was computed with" in result.err
        metrics[first] = tiny.metrics_of(folder)
        scores = []
        for name in ("gluon", "torch"):
            result = tiny.call(evaluate.main, "--params", folder / "last.params", "--data-dir", data, "--gpus", "",
                               "--backend", name, "--json", folder=tmp_path)
            assert result.status == 0, result.err
            scores.append(json.loads(result.out))
        assert scores[0]["top1"] == scores[1]["top1"]
        assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], rel=1e-5)
    for one, other in zip(*metrics.values()):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-2)


def test_flags_of_mxnet_are_refused_by_pytorch(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    result = tiny.call(train_cifar.main, *SHORT, "--kvstore", "nccl", "--backend", "torch", "--data-dir",
                       tiny.cifar10(tmp_path / "data"), folder=tmp_path)
    assert "--kvstore nccl" in tiny.one_sentence(result, result.status)


def test_bfloat16_is_pytorchs_and_near_float32(tmp_path):
    data = tiny.cifar10(tmp_path / "data")
    result = tiny.call(train_cifar.main, *SHORT, "--dtype", "bfloat16", "--backend", "gluon", "--data-dir", data,
                       folder=tmp_path)
    tiny.one_sentence(result, 1, "--dtype bfloat16 is for --backend torch")
    pytest.importorskip("torch", reason="PyTorch is not installed")
    losses = {}
    for dtype in ("float32", "bfloat16", "tf32"):
        result = tiny.call(train_cifar.main, *SHORT, "--dtype", dtype, "--backend", "torch", "--data-dir", data,
                           "--save-dir", tmp_path / dtype, folder=tmp_path)
        assert result.status == 0, result.err
        losses[dtype] = tiny.metrics_of(tmp_path / dtype)[-1]["train_loss"]
    assert "tf32 is for GPUs: float32 is used" in result.err and losses["tf32"] == losses["float32"]
    assert losses["bfloat16"] != losses["float32"] == pytest.approx(losses["bfloat16"], rel=.05)
