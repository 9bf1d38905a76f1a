"""train_cifar.py: the authors' command line, every flag, and whole runs, most of them in this process."""
import dataclasses
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mxnet as mx
import pytest
import tiny
from authors_names import to_authors

import model
import train_cifar
from backend import gluon
from engine import checkpoint, run
from engine.experiment import Experiment
from engine.recipe import CIFAR_PAPER
from support import allocator, params_file, runtime

ROOT = Path(__file__).resolve().parent.parent
AUTHORS = shlex.split(
    "--gpus 0 --num-epochs 400 --mode hybrid -j 32 --batch-size 128 --wd 0.0001 --lr 0.2 --lr-decay 0.1 "
    "--lr-decay-epoch 300,350 --dataset cifar100 --model atac --act-type ChaATAC --useReLU --r 2 "
    "--blocks 3")
SHORT = ["--num-epochs", "2", "--batch-size", "16", "--lr-decay-epoch", "1"]
RESULTS = ["args.json", "best.params", "history.png", "last.params", "metrics.jsonl", "result.json", "train.log"]


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    return tiny.cifar10(tmp_path_factory.mktemp("cifar10"))


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory):
    return tiny.cifar100(tmp_path_factory.mktemp("cifar100"))


def train(folder, data, *arguments, **how):
    return tiny.call(train_cifar.main, "--gpus", "", *tiny.TINY_NET, *SHORT, "--data-dir", data, *arguments,
                     folder=folder, **how)


def trained(folder, data, *arguments, **how):
    """A run in folder/run that has to succeed."""
    result = train(folder, data, "--save-dir", "run", *arguments, **how)
    assert result.status == 0, result.err
    return folder / "run"


def asked(*arguments):
    """The Experiment of a command line."""
    return train_cifar.experiment_of(train_cifar.parse(list(arguments))[1], None)


def assert_same_run(folder, other):
    for name in ("last.params", "best.params"):
        assert tiny.state_of(folder / name) == tiny.state_of(other / name), name
    assert tiny.metrics_of(folder) == tiny.metrics_of(other)


# What the command line means.

def test_without_flags_it_is_the_papers_recipe():
    assert asked() == tiny.experiment("atac_resnet20_v2", CIFAR_PAPER, {"blocks": 3})


def test_the_authors_command_line():
    args = train_cifar.parse(AUTHORS)[1]
    found = train_cifar.experiment_of(args, None)
    assert found.recipe == CIFAR_PAPER
    assert (found.model, found.dataset, found.label_mode) == ("atac_resnet20_v2", "cifar100", "coarse")
    assert {"inner_relu": True, "reduction": 2, "blocks": 3, "classes": 100}.items() <= found.net.items()
    assert (args.gpus, args.mode, args.num_data_workers) == ((0,), "hybrid", 32)


def test_the_recipe_scales_with_its_epochs_and_single_numbers_win():
    found = asked("--recipe", "scaled", "--num-epochs", "24", "--lr", ".1").recipe
    assert (found.epochs, found.lr_decay_epochs, found.lr) == (24, (18, 21), .1)
    found = asked("--recipe", "scaled", "--num-epochs", "24", "--lr-decay-epoch", "20").recipe
    assert found.lr_decay_epochs == (20,)


@pytest.mark.parametrize("arguments, mode, classes", [
    (["--dataset", "cifar100"], "coarse", 100), (["--dataset", "cifar100", "--label-mode", "fine"], "fine", 100),
    (["--dataset", "cifar100", "--classes", "20"], "coarse", 20), (["--classes", "12"], None, 12)])
def test_labels_and_length_of_the_output(arguments, mode, classes):
    found = asked(*arguments)
    assert (found.label_mode, found.classes) == (mode, classes)


def test_the_name_of_a_run():
    assert asked("--model", "senet", "--blocks", "2", "--seed", "7").name \
        == "cifar10_senet_resnet20_v2_b2_seed7"
    assert asked(*AUTHORS).name == "cifar100-coarse_atac_resnet20_v2_b3_seed0"


# Command lines that are refused at once: status 2, one sentence, and no folder made.

@pytest.mark.parametrize("arguments, said", [
    (["--model", "xxx"], "unknown model 'xxx'; the models are "),
    (["--model", "atac", "--r", "3"], "reduction=3 does not divide channels=16"),
    (["--model", "atac", "--alpha", "1"], "has no argument 'alpha'; it has"),
    (["--model", "atac", "--act-layers", "5"], "act_layers counts the head and the three stages"),
    (["--model", "atac", "--act-order", "pre"], "act_order needs act_layers"),
    (["--model", "atac", "--replace-act", "elu"], "replace_act needs"),
    (["--model", "atac", "--act-layers", "1", "--replace-act", "x"], "unknown unit 'x'"),
    (["--model", "atac", "--replaced-sites", "20"], "20 sites cannot be replaced"),
    (["--model", "atac", "--act-type", "x"], "unknown --act-type 'x'"),
    (["--model", "xunit_resnet20_v2", "--kernel-size", "4"], "kernel_size must be odd"),
    (["--model", "nin", "--layers", "3"], "layers"),
    (["--kvstore", "nccl"], "--kvstore nccl is for GPUs"),
    (["--classes", "9"], "--classes 9 is too few for the 10 labels of cifar10"),
    (["--dataset", "cifar100", "--label-mode", "fine", "--classes", "20"], "too few for the 100 labels of cifar100"),
    (["--label-mode", "fine"], "CIFAR-10 has no labels of the kind 'fine'"),
    (["--gpus", "0,0"], "--gpus takes different numbers"), (["--gpus", "-1"], "--gpus takes different numbers"),
    (["--lr-decay-epoch", "5,5"], "lr_decay_epochs must rise"), (["--lr-decay-epoch", "0"], "at least 1"),
    (["--momentum", "1"], "momentum is not"), (["--warmup-epochs", "400"], "leaves nothing of 400 epochs"),
    (["--recipe", "best"], "--recipe: invalid choice"), (["--val-split", "-1"], "--val-split: -1 is below 0"),
    (["--seed", "-1"], "--seed: -1 is below 0"), (["--seed", "x"], "--seed: 'x' is not a whole number"),
    (["-j", "-1"], "-1 is below 0"), (["--kvstore", "dist"], "--kvstore: invalid choice"),
    (["--kvstore", "dist_sync"], "--kvstore: dist_sync needs MXNet's parameter server"),
    (["--save-dir", ""], "--save-dir: it is empty"), (["--save-period", "-1"], "-1 is below 0"),
    (["--log-interval", "0"], "--log-interval: 0 is below 1"), (["--logging-file", ""], "it is empty"),
    (["--save-plot-dir", ""], "it is empty"), (["--save-plot-dir", "~nobody-of-this-name/x"], "path in full"),
    (["--resume-params", ""], "it is empty"),
    (["--resume", "x", "--resume-params", "y"], "--resume and --resume-params exclude each other"),
    (["--ignore-output"], "--ignore-output needs --resume-params"),
    (["--unknown"], "unrecognized arguments: --unknown")])
def test_a_wrong_command_line(tmp_path, arguments, said):
    result = tiny.call(train_cifar.main, *arguments, folder=tmp_path)
    line = tiny.one_sentence(result, 2, said)
    assert line.startswith("train_cifar.py: ") and result.err.count("\n") == 1
    assert not os.listdir(tmp_path)


# What is refused once files are looked at: status 1, one sentence.

@pytest.mark.parametrize("arguments, said", [
    (["--data-dir", "none", "--mirror", "file:///none"], "--data-dir none: that folder does not exist (/"),
    (["--resume", "none"], "--resume: there is no checkpoint none"),
    (["--resume-params", "none"], "none cannot be read: No such file or directory"),
    (["--resume-params", "."], ". is a folder without best.params; name a run's folder or a parameter file"),
    (["--val-split", "64"], "cannot hold out 64 of 64 images"),
    (["--batch-size", "65"], "a batch of 65 does not fit 64 training images"),
    (["--batch-size", "33", "--gpus", "0,1"], "a batch of 66 does not fit 64 training images"),
    (["--logging-file", "none/x.log"], "none/x.log cannot be written")])
def test_files_that_are_missing_or_do_not_fit(tmp_path, cifar10, monkeypatch, arguments, said):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    result = train(tmp_path, cifar10, *arguments)
    assert tiny.one_sentence(result, 1, said).startswith("train_cifar.py: ")
    assert not list(tmp_path.rglob("last.params"))


# Whole runs.

def test_a_run_leaves_everything_that_explains_it(tmp_path, cifar10):
    result = train(tmp_path, cifar10, "--seed", "3", "--summary", "--log-interval", "2", plot=True)
    assert result.status == 0, result.err
    folder = tmp_path / "runs" / "cifar10_resnet20_v2_b1_seed3"
    assert sorted(os.listdir(folder)) == RESULTS
    assert (folder / "history.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    args = json.loads((folder / "args.json").read_text())
    assert Experiment.from_json(args["experiment"]) == tiny.experiment(
        recipe=dataclasses.replace(CIFAR_PAPER, epochs=2, batch_size=16, lr_decay_epochs=(1,)), seed=3)
    assert args["data"]["variant"].startswith("not the official files: data_batch_1.bin (64 images)")
    assert args["data"]["sha256"] == args["provenance"]["sha256"] and not args["data"]["official"]
    assert [file["name"] for file in args["provenance"]["files"]] == ["data_batch_1.bin", "test_batch.bin"]
    assert args["environment"]["mxnet"] == mx.__version__ and "git_revision" in args["environment"]
    assert args["command"].startswith("python train_cifar.py --gpus '' --model resnet20_v2 --blocks 1")

    found = json.loads((folder / "result.json").read_text())
    assert all(found[key] == args[key] for key in ("experiment", "command", "operators"))
    assert found["data"]["files"] == args["provenance"]["files"]
    assert found["last"]["epoch"] == 1 and found["last"]["images"] == 40 and found["chosen_on"] == "test"
    records = tiny.metrics_of(folder)
    assert [record["lr"] for record in records] == pytest.approx([.2, .02])
    assert found["last"]["accuracy"] == records[-1]["val_accuracy"]

    log = (folder / "train.log").read_text()
    for part in ("running on the CPU, as asked", "64 training and 40 test images",
                 "global batch 16 (16 on each of 1 device)",
                 "resnet20_v2, blocks=1, classes=10: 78,342 parameters (77,850 trainable), 12.5",
                 "Epoch[0] Batch [2]\tSpeed: ", "[Epoch 1] validation: err-top1="):
        assert part in log and part in result.err, part
    assert "features.1" in result.out and "features.1" not in log  # the table of layers


def test_float16_on_a_cpu_is_said_to_be_float32_and_the_type_is_on_record(tmp_path, cifar10):
    for flags, said in ((["--dtype", "float16"], 1), (["--dtype", "float32"], 0), ([], 0)):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        result = train(folder, cifar10, "--save-dir", "run", *flags)
        assert result.status == 0 and result.err.count("float16 is for GPUs") == said
        assert json.loads((folder / "run" / "result.json").read_text())["experiment"]["dtype"] == "float32"
        assert checkpoint.read(folder / "run" / "last.params").experiment.dtype == "float32"


def test_a_resumed_run_keeps_its_type_unless_told_otherwise(two_epochs, cifar10, tmp_path, monkeypatch):
    shutil.copytree(two_epochs / "run", tmp_path / "run")
    read = checkpoint.read

    def as_float16(path):
        saved = read(path)
        return dataclasses.replace(saved, experiment=dataclasses.replace(saved.experiment, dtype="float16"))

    monkeypatch.setattr(checkpoint, "read", as_float16)
    asked = []
    monkeypatch.setattr(gluon, "training_type", lambda wanted, contexts: asked.append(wanted) or ("float32", None))
    for flags in ([], ["--dtype", "float32"]):
        result = train(tmp_path, cifar10, "--resume", "run", *flags)
        assert result.status == 0, result.err
    assert asked == ["float16", "float32"]


@pytest.mark.parametrize("arguments, mode, classes", [
    ([], "coarse", 20), (["--label-mode", "fine"], "fine", 100)])
def test_the_authors_command_runs_on_cifar_100(tmp_path, cifar100, monkeypatch, arguments, mode, classes):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    result = tiny.call(train_cifar.main, *AUTHORS, "--num-epochs", "1", "--batch-size", "32", "--data-dir", cifar100,
                       *arguments, folder=tmp_path)
    assert result.status == 0, result.err
    assert "no GPU is present: running on the CPU" in result.err
    assert "the run ends after 1 epoch, before the decays at 300, 350" in result.err
    assert f"cifar100 ({mode} labels): accuracy " in result.err
    folder = tmp_path / "runs" / f"cifar100-{mode}_atac_resnet20_v2_b3_seed0"
    found = json.loads((folder / "result.json").read_text())
    assert found["experiment"]["label_mode"] == mode
    assert len(checkpoint.read(folder / "last.params").data["class_names"]) == classes
    arrays, _ = params_file.read(folder / "last.params")
    assert arrays["output.bias"].shape == (100,)
    assert sum(array.size for array in arrays.values()) == 310310 + 5850


@pytest.mark.parametrize("arguments, total", [
    ("--model atac --act-type relu", 78342), ("--model atac --act-type prelu", 78342 + 7),
    ("--model atac --act-type elu", 78342), ("--model atac --act-type selu", 78342),
    ("--model atac --act-type gelu", 78342), ("--model atac --act-type swish", 78342),
    ("--model atac --act-type xunit --kernel-size 9", 99942), ("--model atac --act-type ChaATAC --r 2", 90790),
    ("--model atac --act-type ChaATAC --r 2 --useGlobal --useReLU", 90790),
    ("--model atac --act-type ChaATAC --useReLU --r 2 --act-layers 1 --act-order bac", 82822),
    ("--model atac --useReLU --act-layers 2 --replace-act swish", 88518),
    ("--model atac_resnet20_v2 --replaced-sites 1 --replace-from first", 78342 + 16 * 16 + 6 * 16),
    ("--model nin", 90790), ("--model localsenet", 89990), ("--model senet", 79133), ("--model genet", 107462),
    ("--model genet --variant theta_minus", 78342)])
def test_every_kind_of_net_makes_a_step(tmp_path, cifar10, arguments, total):
    data = cifar10
    result = tiny.call(train_cifar.main, "--gpus", "", *arguments.split(), "--blocks", "1", "--data-dir", data,
                       "--num-epochs", "1", "--batch-size", "64", "--lr", "0.01", "--save-dir", "run", folder=tmp_path)
    assert result.status == 0, result.err
    arrays, _ = params_file.read(tmp_path / "run" / "last.params")
    assert sum(array.size for array in arrays.values()) == total
    net = checkpoint.read(tmp_path / "run" / "last.params").experiment.net
    assert net.get("inner_relu", True) == ("useReLU" in arguments or "Cha" not in arguments)
    assert ("no ReLU inside the unit" in result.err) == ("Cha" in arguments and "useReLU" not in arguments)


def test_the_seed_makes_the_run_whatever_the_workers(tmp_path, cifar10):
    runs = {}
    for name, arguments in (("a", ["-j", "0"]), ("b", ["-j", "1"]), ("c", ["-j", "4"]), ("d", ["--seed", "1"])):
        (tmp_path / name).mkdir()
        runs[name] = trained(tmp_path / name, cifar10, "--num-epochs", "1", *arguments)
    assert_same_run(runs["a"], runs["b"])
    assert_same_run(runs["a"], runs["c"])
    assert tiny.metrics_of(runs["a"]) != tiny.metrics_of(runs["d"])


def test_imperative_mode_and_no_wd_and_momentum_and_cosine(tmp_path, cifar10):
    folder = trained(tmp_path, cifar10, "--mode", "imperative", "--no-wd", "--momentum", "0", "--lr-mode", "cosine",
                     "--warmup-epochs", "1", "--wd", "0.01", "--num-epochs", "2")
    recipe = json.loads((folder / "result.json").read_text())["experiment"]["recipe"]
    assert (recipe["no_wd"], recipe["momentum"], recipe["lr_mode"], recipe["wd"]) == (True, 0, "cosine", .01)
    assert [record["lr"] for record in tiny.metrics_of(folder)] == pytest.approx([.2, 0], abs=1e-9)  # its last step's


def test_a_held_out_split_and_the_test_images_at_the_end(tmp_path, cifar10):
    folder = trained(tmp_path, cifar10, "--val-split", "20")
    result = json.loads((folder / "result.json").read_text())
    assert (result["chosen_on"], result["experiment"]["val_split"]) == ("held-out", 20)
    assert result["held_out"]["last"]["images"] == result["held_out"]["best"]["images"] == 20
    assert result["last"]["images"] == result["best"]["images"] == 40
    assert all(record["scored_on"] == "held-out" and record["train_images"] == 32 for record in tiny.metrics_of(folder))
    log = (folder / "train.log").read_text()
    assert log.count("test images with the weights of the") == 2 and "chosen on the held-out images" in log


def test_the_log_and_the_plot_go_where_they_are_asked_to(tmp_path, cifar10):
    folder = trained(tmp_path, cifar10, "--logging-file", "x.log", "--save-plot-dir", "plots/new", "--num-epochs", "1",
                     "--save-frequency", "1")
    assert "Epoch 0" in (tmp_path / "x.log").read_text() and not (folder / "train.log").exists()
    assert os.listdir(tmp_path / "plots" / "new") == ["cifar10_resnet20_v2_b1_seed0_history.png"]
    assert (folder / "epoch-0001.params").exists()
    (tmp_path / "plots" / "file").touch()
    result = train(tmp_path, cifar10, "--resume", "run", "--save-plot-dir", "plots/file", "--num-epochs", "1")
    tiny.one_sentence(result, 1, "--save-plot-dir plots/file cannot be written: File exists; the plot is run/history")


# Weights from elsewhere.

@pytest.mark.parametrize("whose", ["ours", "the authors'", "mxnet's"])
def test_a_run_starts_from_the_weights_of_a_file(tmp_path, cifar10, whose):
    net = tiny.ready(model.get_model("atac_resnet20_v2", blocks=1), 77)
    path = tmp_path / "start.params"
    if whose == "ours":
        tiny.save(path, net, tiny.saved(model="atac_resnet20_v2"))
    elif whose == "mxnet's":
        net.save_parameters(str(path))
    else:
        arrays = {to_authors(name): parameter.data() for name, parameter in
                  net._collect_params_with_prefix().items()}
        assert "features.6.module.0.weight" in arrays
        mx.nd.save(str(path), arrays)
    folder = trained(tmp_path, cifar10, "--model", "atac_resnet20_v2", "--resume-params", path, "--lr", "0",
                     "--num-epochs", "1")
    arrays, _ = params_file.read(folder / "last.params")  # a rate of 0 moves running statistics only
    for name, value in tiny.numbers_of(net).items():
        if "running_mean" not in name:  # within a unit, whose input has mean 0, it may stay
            assert (arrays[name] == value).all() == ("running_var" not in name), name
    result = train(tmp_path, cifar10, "--model", "atac_resnet20_v2", "--lr", "0", "--resume", "run")
    assert result.status == 0, result.err
    assert json.loads((folder / "result.json").read_text())["experiment"]["start"] == str(path)


def test_an_exported_net_of_ten_classes_starts_one_of_a_hundred(tmp_path, cifar100):
    net = tiny.ready(model.get_model("atac_resnet20_v2", blocks=1), 77)
    net(mx.nd.zeros((1, 3, 32, 32)))
    net.export(str(tmp_path / "start"))
    flags = ["--model", "atac_resnet20_v2", "--dataset", "cifar100", "--resume-params", "start-0000.params", "--lr",
             "0", "--num-epochs", "1"]
    refused = train(tmp_path, cifar100, *flags)
    tiny.one_sentence(refused, 1, "output.weight is (10, 64) in the file and (100, 64) in the net", "--ignore-output")
    folder = trained(tmp_path, cifar100, *flags, "--ignore-output")
    arrays, _ = params_file.read(folder / "last.params")
    for name, value in tiny.numbers_of(net).items():
        if "running" not in name and not name.startswith("output."):
            assert (arrays[name] == value).all(), name
    assert arrays["output.weight"].shape == (100, 64)
    assert ("weights from start-0000.params: MXNet's file, 113 arrays under the names of export; output.weight, "
            "output.bias are the net's own") in (folder / "train.log").read_text()


def test_weights_of_another_net_are_refused(tmp_path, cifar10):
    net = tiny.ready(model.get_model("resnet20_v2", blocks=2))
    net.save_parameters(str(tmp_path / "start.params"))
    result = train(tmp_path, cifar10, "--resume-params", "start.params")
    tiny.one_sentence(result, 1, "start.params does not fit this net", "features.2.1")


# Going on.

@pytest.mark.parametrize("gpus", ["", "0,1"])
def test_n_epochs_and_n_more_are_2n(tmp_path, cifar10, monkeypatch, gpus):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    whole = trained(tmp_path / "whole", cifar10, "--gpus", gpus, "--num-epochs", "4")
    halves = trained(tmp_path / "halves", cifar10, "--gpus", gpus)
    assert trained(tmp_path / "halves", cifar10, "--gpus", gpus, "--num-epochs", "4", "--resume") == halves
    assert_same_run(whole, halves)
    assert [record["epoch"] for record in tiny.metrics_of(halves)] == [0, 1, 2, 3]
    assert json.loads((halves / "args.json").read_text())["experiment"]["recipe"]["epochs"] == 4


def test_resume_alone_takes_everything_from_the_checkpoint(tmp_path, cifar100):
    arguments = ["--dataset", "cifar100", "--label-mode", "fine", "--model", "senet", "--r", "8", "--seed", "5",
                 "--val-split", "20", "--wd", "0.01", "--no-wd"]
    folder = trained(tmp_path, cifar100, *arguments)
    before = json.loads((folder / "args.json").read_text())
    result = tiny.call(train_cifar.main, "--gpus", "", "--data-dir", cifar100, "--resume", "run", "--num-epochs", "3",
                       folder=tmp_path)
    assert result.status == 0, result.err
    after = json.loads((folder / "args.json").read_text())
    before["experiment"]["recipe"]["epochs"] = 3
    for volatile in ("command", "environment"):
        before.pop(volatile), after.pop(volatile)
    assert after == before
    assert len(tiny.metrics_of(folder)) == 3


def test_a_named_recipe_does_not_move_the_decays_of_a_run(two_epochs, cifar10):
    resume = ["--gpus", "", *tiny.TINY_NET, "--data-dir", cifar10, "--batch-size", "16", "--resume", "run", "--recipe"]
    tiny.one_sentence(
        tiny.call(train_cifar.main, *resume, "scaled", "--num-epochs", "8", folder=two_epochs), 1,
        "--resume: the command asks for lr_decay_epochs=[6, 7] but the checkpoint has lr_decay_epochs=[1]; only "
        "--num-epochs may change when a run is resumed (leave --recipe scaled out)")
    tiny.one_sentence(tiny.call(train_cifar.main, *resume, "paper", folder=two_epochs), 1,
                      "the command asks for lr_decay_epochs=[300, 350] but the checkpoint has lr_decay_epochs=[1]")


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory, cifar10):
    """The folder around a finished run of two epochs."""
    folder = tmp_path_factory.mktemp("two")
    trained(folder, cifar10)
    return folder


@pytest.mark.parametrize("arguments, said", [
    (["--lr", "0.1"], "the command asks for lr=0.1 but the checkpoint has lr=0.2"),
    (["--batch-size", "8"], "batch_size=8 but the checkpoint has batch_size=16"),
    (["--lr-decay-epoch", "3"], "lr_decay_epochs=[3] but the checkpoint has lr_decay_epochs=[1]"),
    (["--model", "nin"], "model=nin_resnet20_v2 but the checkpoint has model=resnet20_v2"),
    (["--blocks", "2"], "blocks=2 but the checkpoint has blocks=1"),
    (["--classes", "11"], "classes=11 but the checkpoint has classes=10"),
    (["--dataset", "cifar100"], "dataset=cifar100 but the checkpoint has dataset=cifar10"),
    (["--seed", "1"], "seed=1 but the checkpoint has seed=0"),
    (["--val-split", "8"], "val_split=8 but the checkpoint has val_split=0"),
    (["--num-epochs", "1"], "--resume: the checkpoint is in epoch 2 already, so --num-epochs 1 is too few"),
    (["--gpus", "0,1"], "was written by a run on 1 device(s), this one has 2; resume with 1"),
    (["--save-dir", "other"], "--resume continues the run in run; leave --save-dir out")])
def test_resume_refuses_another_run(two_epochs, cifar10, monkeypatch, arguments, said):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    before = {name: (two_epochs / "run" / name).read_bytes() for name in ("last.params", "metrics.jsonl")}
    tiny.one_sentence(train(two_epochs, cifar10, "--resume", "run", *arguments), 1, said)
    assert {name: (two_epochs / "run" / name).read_bytes() for name in before} == before


def test_resume_refuses_other_data(two_epochs, tmp_path):
    other = tiny.cifar10(tmp_path / "other", train=63)
    result = train(two_epochs, other, "--resume", "run", "--num-epochs", "3")
    tiny.one_sentence(result, 1, "--resume: the data are not those of the checkpoint (now not the official files: "
                      "data_batch_1.bin (63 images)")


def test_a_run_is_not_overwritten(two_epochs, cifar10):
    result = train(two_epochs, cifar10, "--save-dir", "run")
    tiny.one_sentence(result, 1, "run holds a run already: resume it with --resume, or give another --save-dir")


def test_weights_only_are_no_run_to_go_on_with(tmp_path, cifar10):
    tiny.ready(model.get_model("resnet20_v2", blocks=1)).save_parameters(str(tmp_path / "x.params"))
    result = train(tmp_path, cifar10, "--resume", "x.params")
    tiny.one_sentence(result, 1, "x.params holds weights only", "with --resume-params")


def test_resume_without_a_run_starts_one_and_the_same_command_then_goes_on(tmp_path, cifar10):
    first = train(tmp_path, cifar10, "--resume", "--num-epochs", "1")
    assert first.status == 0 and "going on" not in first.err
    (tmp_path / "runs" / "cifar10_resnet20_v2_b1_seed0-2").mkdir()  # a later one that failed before it saved anything
    second = train(tmp_path, cifar10, "--resume")
    assert second.status == 0 and "resuming from runs/cifar10_resnet20_v2_b1_seed0/last.params: epoch 1, step 0" \
        in second.err
    assert len(tiny.metrics_of(tmp_path / "runs" / "cifar10_resnet20_v2_b1_seed0")) == 2


@pytest.mark.parametrize("missing, said", [
    ("state", "it holds no state to resume; start a new run"), ("data", "data is missing"),
    ("experiment", "experiment is missing")])
def test_resume_refuses_a_file_without_a_runs_settings_and_leaves_its_folder_alone(two_epochs, cifar10, tmp_path,
                                                                                  missing, said):
    net = model.load_params(model.get_model("resnet20_v2", blocks=1), two_epochs / "run" / "last.params")
    settings = checkpoint.read(two_epochs / "run" / "last.params").as_json()
    del settings[missing]
    tiny.save(tmp_path / "published.params", net, SimpleNamespace(as_json=lambda: settings))
    tiny.one_sentence(train(tmp_path, cifar10, "--resume", "published.params"), 1, said)
    assert os.listdir(tmp_path) == ["published.params"]


@pytest.mark.parametrize("flags", [["--resume-params", "none.params"], ["--data-dir", "none", "--mirror", "file:///none"],
                                   ["--batch-size", "10000"], ["--val-split", "10000"]])
def test_a_start_that_fails_leaves_no_folder_behind(tmp_path, cifar10, flags):
    assert train(tmp_path, cifar10, *flags).status == 1
    assert not (tmp_path / "runs").exists()


def test_resume_refuses_to_go_back_while_the_newest_checkpoint_is_sound(tmp_path, cifar10):
    folder = trained(tmp_path, cifar10, "--save-period", "1")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    tiny.one_sentence(train(tmp_path, cifar10, "--resume", "run/epoch-0001.params"), 1,
                      "last.params is further on (epoch 2, step 0): resume run, or start a new run with")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    whole = tiny.state_of(folder / "last.params")
    (folder / "last.params").write_bytes(before["last.params"][:1000])  # damaged: an earlier one serves
    assert train(tmp_path, cifar10, "--resume", "run/epoch-0001.params").status == 0
    assert tiny.state_of(folder / "last.params") == whole


def test_resume_says_when_there_is_nothing_to_resume_or_a_history_is_incomplete(tmp_path, cifar10):
    first = train(tmp_path, cifar10, "--resume", "--save-dir", "run", "--num-epochs", "1")
    assert first.status == 0 and "--resume: there is no checkpoint in run yet; starting a new run" in first.err
    (tmp_path / "run" / "metrics.jsonl").write_text("damaged\n{}\n")
    again = train(tmp_path, cifar10, "--resume", "--save-dir", "run")
    tiny.one_sentence(again, 1, "metrics.jsonl: line 1 is damaged")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    again = train(tmp_path, cifar10, "--resume", "--save-dir", "run")
    assert again.status == 0 and "has only 0 of the 1 epoch before the checkpoint" in again.err


# Divergence.

def test_divergence_ends_in_one_sentence_with_the_last_good_checkpoint_kept(tmp_path, cifar10):
    result = train(tmp_path, cifar10, "--lr-decay", "1e30", "--num-epochs", "3", "--save-dir", "run")
    line = tiny.one_sentence(result, 1, "train_cifar.py: the training diverged in epoch 1",
                             "the last good checkpoint is run/last.params. Try a smaller --lr")
    assert line in (tmp_path / "run" / "train.log").read_text()
    assert checkpoint.read(tmp_path / "run" / "last.params").state["epoch"] == 1
    model.load_params(model.get_model("resnet20_v2", blocks=1), tmp_path / "run" / "last.params")
    result = train(tmp_path, cifar10, "--lr", "1e6", "--save-dir", "other")
    tiny.one_sentence(result, 1, "the training diverged in epoch 0", "there is no checkpoint yet")


# As a process of its own.

@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """CIFAR-10 for epochs of 64 steps, time enough to stop within one."""
    return tiny.cifar10(tmp_path_factory.mktemp("more"), train=512)


PROCESS = ["--batch-size", "8", "--log-interval", "1"]
SET_PIPE_SIZE = 1031  # fcntl.F_SETPIPE_SZ, which Python has from 3.10 on


def stopped(folder, data, number):
    """Start the script, send it a signal within the second epoch; returns status and standard error."""
    command = [sys.executable, str(ROOT / "train_cifar.py"), "--gpus", "", *tiny.TINY_NET, *SHORT, *PROCESS,
               "--data-dir", data, "--save-dir", "run"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0) as process:
        fcntl.fcntl(process.stderr, SET_PIPE_SIZE, 4096)  # fifty lines: the training waits for its reader in the epoch
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if line.startswith(b"Epoch[1] Batch [3]"):
                    process.send_signal(number)
                    lines += process.stderr.readlines()
            return process.wait(60), b"".join(lines).decode()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, more):
    """The folder of the run that nobody stopped."""
    return trained(tmp_path_factory.mktemp("whole"), more, *PROCESS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_within_an_epoch_saves_and_the_rest_makes_the_whole(tmp_path, more, whole, number):
    status, err = stopped(tmp_path, more, number)
    assert status == 128 + number and "Traceback" not in err
    assert f"stopped by {number.name} in epoch 1 after step " in err.splitlines()[-1]
    assert err.splitlines()[-1].endswith("to resume, give the same command with --resume run")
    state = checkpoint.read(tmp_path / "run" / run.LAST).state
    assert state["epoch"] == 1 and 3 <= state["step"] < 64
    assert_same_run(whole, trained(tmp_path, more, *PROCESS, "--resume"))


@pytest.mark.skipif(not allocator.glibc_version(), reason="this system has another C library than glibc")
def test_the_process_that_trains_has_the_settings_and_says_so(tmp_path, cifar10):
    ours = (*runtime.THREADS, *allocator.NAMES, runtime.MARK)
    environment = {**{key: value for key, value in os.environ.items() if key not in ours}, "OMP_NUM_THREADS": "1"}
    found = {}
    for flags in ([], ["--no-tune"]):
        done = subprocess.run([sys.executable, str(ROOT / "train_cifar.py"), "--gpus", "", *tiny.TINY_NET, *SHORT,
                               "--data-dir", cifar10, "--save-dir", f"run{len(flags)}", *flags],
                              cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        result = json.loads((tmp_path / f"run{len(flags)}" / "result.json").read_text())
        text = (tmp_path / f"run{len(flags)}" / "train.log").read_text()
        lines = [line.partition(" process")[2] for line in text.splitlines() if " process settings" in line]
        assert len(lines) == 1 and "process settings" not in done.stderr and ", as asked, threads: 1\n" in done.stderr
        found[bool(flags)] = result["environment"]["process_settings"], lines[0]
    tuned, left = found[False], found[True]
    assert tuned[0]["MALLOC_TRIM_THRESHOLD_"] == "17179869184" and tuned[0]["OMP_NUM_THREADS"] == "1"
    assert "MALLOC_TRIM_THRESHOLD_=17179869184" in tuned[1] and " OMP_NUM_THREADS=1," in tuned[1]
    assert [name for name, value in left[0].items() if value is not None] == ["OMP_NUM_THREADS"]
    assert left[1].startswith(" settings (--no-tune: left alone): ") and "set by this program" not in left[1]


def test_no_traceback_from_the_process_itself(tmp_path):
    for arguments, status in ((["--model", "xxx"], 2), (["--resume", "none"], 1), (["--help"], 0)):
        done = subprocess.run([sys.executable, str(ROOT / "train_cifar.py"), *arguments], cwd=tmp_path,
                              capture_output=True, text=True, timeout=100)
        assert done.returncode == status and "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == (status > 0)
