"""train_imagenet.py: the authors' command line, every flag, and whole runs on tiny images, most in this process.

Most runs are of ResNet-50s with one narrow bottleneck a stage, which train in a second and save in a tenth.
"""
import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import imagenet_files
import mxnet as mx
import numpy as np
import pytest
import tiny
from authors_names import to_authors

import model
import train_imagenet
from engine import checkpoint, presets
from engine.data import image_batches, imagenet
from engine.experiment import Experiment
from engine.recipe import IMAGENET_PAPER, IMAGENET_RELEASED
from model import imagenet_resnet
from support import params_file

ROOT = Path(__file__).resolve().parent.parent
AUTHORS = shlex.split(
    "--mode hybrid --lr 0.075 --lr-mode cosine --num-epochs 160 --batch-size 128 --num-gpus 2 -j 48 --warmup-epochs 5 "
    "--dtype float16 --use-rec --last-gamma --no-wd --label-smoothing --save-dir D --logging-file F --r 2 "
    "--act-layers 2")
SHORT = ["--num-epochs", "2", "--batch-size", "4", "--input-size", "32", "--warmup-epochs", "0", "--classes", "5",
         "--lr", ".01"]
RESULTS = ["args.json", "best.params", "history.png", "last.params", "metrics.jsonl", "result.json", "train.log"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Class folders and record files of the same images: 12 to train on, 6 to validate."""
    root = tmp_path_factory.mktemp("imagenet")
    for split, counts, seed in (("train", (4, 3, 5), 0), ("val", (2, 2, 2), 100)):
        written = imagenet_files.folder(root / split, counts, seed=seed)
        (root / "rec").mkdir(exist_ok=True)
        imagenet_files.record_file(root / "rec" / split, written.values(),
                                   [imagenet_files.CLASSES.index(name.split("/")[0]) for name in written])
    return str(root)


@pytest.fixture
def narrow(monkeypatch):
    """ResNet-50 with one bottleneck a stage, and narrow ones."""
    monkeypatch.setattr(imagenet_resnet, "BLOCKS", (1, 1, 1, 1))
    monkeypatch.setattr(imagenet_resnet, "WIDTHS", (8, 8, 16, 16))


def train(folder, data, *arguments, **how):
    return tiny.call(train_imagenet.main, "--gpus", "", *SHORT, "--data-dir", data, *arguments, folder=folder, **how)


def trained(folder, data, *arguments, **how):
    """A run in folder/run that has to succeed."""
    folder.mkdir(exist_ok=True)
    result = train(folder, data, "--save-dir", "run", *arguments, **how)
    assert result.status == 0, result.err
    return folder / "run"


def asked(*arguments):
    """The Experiment of a command line."""
    return train_imagenet.experiment_of(train_imagenet.parse(list(arguments))[1], None)


def assert_same_run(folder, other):
    for name in ("last.params", "best.params"):
        assert tiny.state_of(folder / name) == tiny.state_of(other / name), name
    assert tiny.metrics_of(folder) == tiny.metrics_of(other)


# What the command line means.

def test_the_authors_command_line_is_the_released_recipe_and_both_are_the_default():
    args = train_imagenet.parse(AUTHORS)[1]
    found = train_imagenet.experiment_of(args, None)
    assert found == asked("--recipe", "released") == asked()
    assert found.recipe == IMAGENET_RELEASED
    assert found.model == "atac_resnet50_v1b" and found.net == {
        "classes": 1000, "act_layers": 2, "last_gamma": True, "reduction": 2, "inner_relu": True}
    assert (found.input_size, found.crop_ratio, found.seed) == (224, .875, 0)
    assert (args.gpus, args.mode, args.num_data_workers, args.use_rec, args.dtype) \
        == ((0, 1), "hybrid", 48, True, "float16")
    for name, dtype in (("paper", "float32"), ("released", "float16"), ("scaled", "float16")):
        assert presets.named("train_imagenet.py", name).dtype == dtype


def test_the_papers_recipe_and_single_flags_over_it():
    found = asked("--recipe", "paper")
    assert found.recipe == IMAGENET_PAPER and not found.net["last_gamma"]
    found = asked("--recipe", "paper", "--last-gamma", "--label-smoothing", ".2", "--lr-mode", "cosine", "--mixup")
    assert found.net["last_gamma"]
    assert found.recipe == dataclasses.replace(IMAGENET_PAPER, label_smoothing=.2, lr_mode="cosine", mixup_alpha=.2)
    found = asked("--no-wd", "off", "--last-gamma", "off", "--label-smoothing", "0", "--wd", "0")
    assert not found.net["last_gamma"]
    assert found.recipe == dataclasses.replace(IMAGENET_RELEASED, no_wd=False, label_smoothing=0., wd=0.)
    found = asked("--recipe", "scaled", "--num-epochs", "64")
    assert (found.recipe.epochs, found.recipe.warmup_epochs) == (64, 2)


@pytest.mark.parametrize("given, name, arguments", [
    ([], "atac_resnet50_v1b", {"act_layers": 2, "reduction": 2}),
    (["--model", "atac", "--r", "4", "--act-layers", "4"], "atac_resnet50_v1b", {"act_layers": 4, "reduction": 4}),
    (["--model", "resnet50"], "resnet50_v1b", {}), (["--model", "ResNet50_v1"], "resnet50_v1", {}),
    (["--model", "se", "--r", "8"], "se_resnet50_v1b", {"reduction": 8}),
    (["--model", "ge", "--variant", "theta"], "ge_resnet50_v1b", {"variant": "theta", "input_size": 224}),
    (["--model", "ge", "--input-size", "64"], "ge_resnet50_v1b", {"variant": "theta_plus", "input_size": 64}),
    (["--model", "aa", "--input-size", "96"], "aa_resnet50_v1b", {"input_size": 96}),
    (["--model", "fa", "--stem", "conv", "--kernel-size", "5"], "fa_resnet50_v1b", {"stem": "conv", "kernel_size": 5})])
def test_every_net_of_table_4(given, name, arguments):
    found = asked(*given)
    assert found.model == name
    assert found.net == model.complete_arguments(name, {"classes": 1000, "last_gamma": True, **arguments})
    for key, value in arguments.items():
        assert found.net[key] == value


def test_the_name_of_a_run():
    assert asked().name == "imagenet_atac_resnet50_v1b_seed0"
    assert asked("--model", "se", "--input-size", "64", "--seed", "3").name \
        == "imagenet64_se_resnet50_v1b_seed3"


def test_the_rule_of_the_learning_rate():
    assert train_imagenet.rate_sentence(.075, 256) == "learning rate 0.075 at a total batch of 256, the recipes'"
    assert train_imagenet.rate_sentence(.1, 1024) == (
        "learning rate 0.1 at a total batch of 1024; the recipes' 0.075 is for 256, in proportion that is --lr 0.3")


def test_help_says_what_the_recipes_are_and_hides_what_is_refused(capsys):
    with pytest.raises(SystemExit):
        train_imagenet.parse(["--help"])
    shown = capsys.readouterr().out
    assert "21.41%" in shown and "--accumulate" in shown and "--resume-states" not in shown


# Command lines that are refused at once: status 2, one sentence, and no folder made.

@pytest.mark.parametrize("arguments, said", [
    (["--model", "xxx"], "unknown model 'xxx'; the models are "),
    (["--model", "nin_resnet20_v2"], "nin_resnet20_v2 is a net for CIFAR's images; train_cifar.py trains it"),
    (["--model", "resnet50", "--r", "2"], "has no argument 'reduction'; it has"),
    (["--r", "3"], "reduction=3 does not divide"), (["--act-layers", "5"], "act_layers counts the stages"),
    (["--input-size", "100"], "--input-size must be a multiple of 32"), (["--input-size", "0"], "0 is below 32"),
    (["--crop-ratio", "1.5"], "1.5 is above 1"), (["--crop-ratio", "0"], "0 is below 0.01"),
    (["--last-gamma", "1"], "'1' is neither on nor off"), (["--label-smoothing", "1"], "and below 1"),
    (["--accumulate", "3"], "a batch of 128 cannot be cut into 3 equal parts"),
    (["--accumulate", "2", "--fused", "on"], "--fused on and --accumulate exclude each other"),
    (["--mixup-alpha", ".2"], "--mixup-alpha needs --mixup"),
    (["--mixup-off-epoch", "2"], "mixup_off_epochs needs mixup_alpha"),
    (["--warmup-epochs", "160"], "leaves nothing of 160 epochs"),
    (["--resume-states", "x.states"], "--resume-states: a trainer's states are a pickle"),
    (["--use-pretrained"], "start from a file with --resume-params"),
    (["--use-se"], "--model se"), (["--teacher", "x"], "does not train with a teacher"),
    (["--resume-epoch", "5"], "--resume-epoch needs --resume-params"),
    (["--resume-epoch", "160", "--resume-params", "x"], "--resume-epoch 160 leaves nothing of 160 epochs"),
    (["--resume", "x", "--resume-params", "y"], "--resume and --resume-params exclude each other"),
    (["--rec-train-idx", "x"], "--rec-train-idx needs --rec-train"), (["--damaged", "mend"], "invalid choice"),
    (["--kvstore", "nccl"], "--kvstore nccl is for GPUs"),
    (["--kvstore", "dist_async"], "start --backend torch with torchrun, or give --kvstore horovod"),
    (["--num-gpus", "2", "--gpus", "1"], "not allowed with argument --num-gpus"),
    (["--save-interval", "-1"], "-1 is below 0"), (["--recipe", "best"], "invalid choice"),
    (["--dataset", "cifar10"], "invalid choice: 'cifar10' (choose from"), (["--data-dir", ""], "it is empty")])
def test_a_wrong_command_line(tmp_path, arguments, said):
    result = tiny.call(train_imagenet.main, *arguments, folder=tmp_path)
    line = tiny.one_sentence(result, 2, said)
    assert line.startswith("train_imagenet.py: ") and result.err.count("\n") == 1
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("arguments, said", [
    (["--data-dir", "none"], "none"), (["--rec-train", "none.rec", "--rec-val", "none.rec"], "none.rec"),
    (["--resume", "none"], "--resume: there is no checkpoint none"),
    (["--resume-params", "none"], "none cannot be read: No such file or directory"),
    (["--classes", "2"], "--classes 2 is too few for the 3 classes of the data"),
    (["--batch-size", "13"], "a batch of 13 does not fit 12 training images"),
    (["--kvstore", "horovod"], "Horovod is not installed")])
def test_what_is_missing_or_does_not_fit(tmp_path, data, narrow, monkeypatch, arguments, said):
    monkeypatch.setitem(sys.modules, "horovod", None)
    tiny.one_sentence(train(tmp_path, data, *arguments), 1, said)
    assert not (tmp_path / "runs").exists()


# Whole runs.

def test_the_authors_command_runs(tmp_path, data, monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    result = tiny.call(train_imagenet.main, *AUTHORS, "--data-dir", data, "--num-epochs", "1", "--warmup-epochs", "0",
                       "--batch-size", "3", "--input-size", "32", folder=tmp_path)
    assert result.status == 0, result.err
    log = (tmp_path / "F").read_text()
    for part in ("no GPU is present: running on 2 CPU contexts in place of 2 GPUs",
                 "float16 is for GPUs", "12 training and 6 validation images in 3 classes, 32x32 pixels",
                 "global batch 6 (3 on each of 2 devices), 2 steps an epoch",
                 "28,006,312 parameters (27,934,760 trainable)",
                 "learning rate 0.075 at a total batch of 6; the recipes' 0.075 is for 256",
                 "training accuracy counts the hard labels", "[Epoch 0] validation: err-top1="):
        assert part in log and part in result.err, part
    found = json.loads((tmp_path / "D" / "result.json").read_text())
    assert found["chosen_on"] == "validation" and found["last"]["images"] == 6
    experiment = Experiment.from_json(found["experiment"])
    assert (experiment.dtype, experiment.devices) == ("float32", 2)
    assert (experiment.recipe.lr_mode, experiment.recipe.label_smoothing) == ("cosine", .1)
    assert (experiment.input_size, experiment.crop_ratio) == (32, .875)
    arrays, _ = params_file.read(tmp_path / "D" / "last.params")
    assert len(arrays) == 447 and sum(array.size for array in arrays.values()) == 28_006_312
    assert {to_authors(name) for name in arrays} >= {"layer3.0.relu1.module.0.weight", "fc.bias"}
    assert sorted(os.listdir(tmp_path / "D")) == [name for name in RESULTS if name != "train.log"]


def test_a_run_leaves_its_records(tmp_path, data, narrow):
    folder = trained(tmp_path, data, "--seed", "3", "--log-interval", "1", "--save-period", "1", "--summary", plot=True)
    assert sorted(os.listdir(folder)) == sorted(RESULTS + ["epoch-0001.params", "epoch-0002.params"])
    args = json.loads((folder / "args.json").read_text())
    assert [args["experiment"][name] for name in ("model", "dataset", "seed", "input_size")] \
        == ["atac_resnet50_v1b", "imagenet", 3, 32]
    assert args["data"]["class_names"] == list(imagenet_files.CLASSES) and not args["data"]["official"]
    assert args["data"]["sha256"] == args["provenance"]["sha256"]
    result = json.loads((folder / "result.json").read_text())
    assert result["last"]["epoch"] == 1 and result["best"]["top5"] == 1  # of five classes
    log = (folder / "train.log").read_text()
    assert "Epoch[0] Batch [2]\tSpeed: " in log and "6 validation images, each once; data not the official files" in log
    assert log.count("(officially ") == 3  # in one line, of images of both kinds and of classes


def test_records_and_folders_make_the_same_run(tmp_path, data, narrow):
    folders = trained(tmp_path / "folders", data)
    records = trained(tmp_path / "records", data, "--use-rec", "-j", "0")
    named = trained(tmp_path / "named", "none", "--rec-train", f"{data}/rec/train.rec", "--rec-val",
                    f"{data}/rec/val.rec", "--rec-val-idx", f"{data}/rec/val.idx")
    assert_same_run(folders, records)
    assert_same_run(records, named)


@pytest.mark.parametrize("name", ["resnet50", "se", "ge", "aa", "fa"])
def test_the_other_nets_of_table_4_train(tmp_path, data, narrow, monkeypatch, name):
    if name in ("aa", "fa"):  # whose heads need some width
        monkeypatch.setattr(imagenet_resnet, "WIDTHS", (16, 80, 80, 80))
    folder = trained(tmp_path, data, "--model", name, "--num-epochs", "1", "--r" if name == "se" else "--seed", "4")
    result = json.loads((folder / "result.json").read_text())
    assert np.isfinite(result["last"]["loss"]) and result["experiment"]["arguments"]["last_gamma"]


def test_parts_of_a_batch_and_mixed_images_and_the_papers_steps(tmp_path, data, narrow):
    folder = trained(tmp_path, data, "--recipe", "paper", "--accumulate", "2", "--mixup", "--lr-decay-epoch", "1")
    log = (folder / "train.log").read_text()
    assert "global batch 4 (4 on each of 1 device, in 2 parts)" in log and "the one with the larger share" in log
    assert "plain Gluon operators, which can add up gradients" in log
    assert [record["lr"] for record in tiny.metrics_of(folder)] == pytest.approx([.01, .001])


def test_the_last_gammas_start_at_zero_unless_the_recipe_says_otherwise(tmp_path, data, narrow):
    for flag, value in (("released", 0), ("paper", 1)):
        folder = trained(tmp_path / flag, data, "--recipe", flag, "--lr", "0", "--num-epochs", "1")
        arrays, _ = params_file.read(folder / "last.params")
        assert (arrays["layer1.0.bn3.gamma"] == value).all() and (arrays["layer1.0.bn1.gamma"] == 1).all()


def test_a_damaged_image_is_named_or_left_out(tmp_path, data, narrow):
    root = tmp_path / "data"
    for split in ("train", "val"):
        imagenet_files.folder(root / split, (2, 2, 2))
    victim = root / "train" / imagenet_files.CLASSES[1] / f"{imagenet_files.CLASSES[1]}_0.JPEG"
    victim.write_bytes(victim.read_bytes()[:100])
    refused = train(tmp_path, str(root), "--batch-size", "2", "--save-dir", "a")
    tiny.one_sentence(refused, 1, str(victim), "--damaged skip")
    folder = trained(tmp_path, str(root), "--batch-size", "2", "--damaged", "skip")
    assert str(victim) in (folder / "train.log").read_text()


# Going on.

@pytest.mark.parametrize("gpus", ["", "0,1"])
def test_a_run_goes_on_to_the_bit_between_epochs_and_within_one(tmp_path, data, narrow, monkeypatch, gpus):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    how = ["--gpus", gpus, "--batch-size", "2", "--num-epochs", "3", "--mixup"]
    whole = trained(tmp_path / "whole", data, *how)
    # Killed after the checkpoint of a step: the error stands for what cannot be caught.
    written, places = checkpoint.save, []

    def killed(path, *others):
        written(path, *others)
        state = checkpoint.read(path).state
        places.append((state["epoch"], state["step"]))
        if places[-1] == (1, 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", killed)
    (tmp_path / "parts").mkdir()
    result = train(tmp_path / "parts", data, *how, "--save-dir", "run", "--save-interval", "2")
    assert result.status == 130 and places[-1] == (1, 2)
    monkeypatch.setattr(checkpoint, "save", written)
    parts = trained(tmp_path / "parts", data, *how, "--resume")
    assert_same_run(whole, parts)
    trained(tmp_path / "parts", data, *how, "--resume", "--num-epochs", "4")
    assert len(tiny.metrics_of(parts)) == 4


@pytest.fixture
def one_epoch(tmp_path, data, narrow):
    return trained(tmp_path, data, "--num-epochs", "1", "--model", "ge", "--recipe", "paper", "--mixup").parent


def test_resume_alone_takes_everything_from_the_checkpoint(one_epoch, data):
    before = json.loads((one_epoch / "run" / "args.json").read_text())
    result = tiny.call(train_imagenet.main, "--gpus", "", "--data-dir", data, "--resume", "run", "--num-epochs", "2",
                       folder=one_epoch)
    assert result.status == 0, result.err
    after = json.loads((one_epoch / "run" / "args.json").read_text())
    recipe = after["experiment"]["recipe"]
    assert recipe.pop("epochs") == 2 and before["experiment"]["recipe"].pop("epochs") == 1
    for volatile in ("command", "environment"):
        before.pop(volatile), after.pop(volatile)
    assert after == before and not after["experiment"]["arguments"]["last_gamma"] and recipe["mixup_alpha"] == .2


def test_resume_takes_flags_that_fit_the_checkpoints_net_and_schedule_but_not_the_default_ones(one_epoch, data):
    """GE has a variant, the default net has none; two epochs leave nothing of the default warmup."""
    result = tiny.call(train_imagenet.main, "--gpus", "", "--data-dir", data, "--resume", "run", "--num-epochs", "2",
                       "--variant", "theta_plus", folder=one_epoch)
    assert result.status == 0, result.err
    result = tiny.call(train_imagenet.main, "--gpus", "", "--data-dir", data, "--resume", "run", "--act-layers", "2",
                       folder=one_epoch)
    tiny.one_sentence(result, 1, "--resume: ge_resnet50_v1b has no argument 'act_layers'; it has")
    result = tiny.call(train_imagenet.main, "--resume", "--variant", "theta", folder=one_epoch)
    tiny.one_sentence(result, 2, "atac_resnet50_v1b has no argument 'variant'")


@pytest.mark.parametrize("arguments, said", [
    (["--lr", ".02"], "lr=0.02 but the checkpoint has lr=0.01"),
    (["--recipe", "released"], "the command asks for last_gamma=True but the checkpoint has last_gamma=False; only "),
    (["--label-smoothing"], "label_smoothing=0.1 but"), (["--model", "atac"], "model=atac_resnet50_v1b but"),
    (["--last-gamma"], "last_gamma=True but the checkpoint has last_gamma=False"),
    (["--input-size", "64"], "but the checkpoint has "), (["--crop-ratio", "1"], "crop_ratio=1.0 but"),
    (["--gpus", "0,1"], "was written by a run on 1 device(s), this one has 2")])
def test_resume_refuses_another_run(one_epoch, data, monkeypatch, arguments, said):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    before = {name: (one_epoch / "run" / name).read_bytes() for name in ("last.params", "metrics.jsonl")}
    tiny.one_sentence(train(one_epoch, data, "--resume", "run", *arguments), 1, said)
    assert {name: (one_epoch / "run" / name).read_bytes() for name in before} == before


def test_resume_refuses_other_images_and_a_run_of_the_other_script(one_epoch, tmp_path, data):
    other = tmp_path / "other"
    for split in ("train", "val"):
        imagenet_files.folder(other / split, (4, 4, 4))
    tiny.one_sentence(train(one_epoch, str(other), "--resume", "run"), 1, "the data are not those of the checkpoint")
    net = tiny.ready(model.get_model("resnet20_v2", blocks=1))
    state = {"epoch": 0, "step": 0, "meter": {"images": 0, "loss_sum": 0., "correct": 0}, "best": None, "resumed": 0,
             "loss_scale": None}
    tiny.save(tmp_path / "cifar.params", net, dataclasses.replace(tiny.saved(), state=state))
    tiny.one_sentence(train(tmp_path, data, "--resume", "cifar.params", "--model", "atac"), 1,
                      "model=atac_resnet50_v1b but the checkpoint has model=resnet20_v2")
    tiny.one_sentence(train(tmp_path, data, "--resume", "cifar.params"), 1, "resnet20_v2 is a net for CIFAR's images")


def test_a_run_starts_from_the_weights_of_a_file_and_may_enter_its_schedule_late(tmp_path, data, narrow):
    net = tiny.ready(model.get_model("atac_resnet50_v1b", classes=5), 9)
    net.cast("float16")  # as the released file is
    mx.nd.save(str(tmp_path / "x.params"), {to_authors(name): parameter.data() for name, parameter in
                                            net._collect_params_with_prefix().items()})
    folder = trained(tmp_path, data, "--resume-params", "x.params", "--resume-epoch", "1", "--lr", "0")
    assert [record["epoch"] for record in tiny.metrics_of(folder)] == [1]
    arrays, _ = params_file.read(folder / "last.params")
    assert all((arrays[name] == value.astype("float32")).all() for name, value in tiny.numbers_of(net).items()
               if "running" not in name)
    assert "the schedule starts at epoch 1, with fresh momentum" in (folder / "train.log").read_text()


# Several devices and workers.

def test_evaluation_scores_exactly_what_is_saved(tmp_path, data, narrow, monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    folder = trained(tmp_path, data, "--gpus", "0,1,2", "--batch-size", "2", "--lr", ".1")
    net = model.load_params(model.get_model("atac_resnet50_v1b", classes=5), folder / "last.params")
    source = imagenet.load(data).val
    found = tiny.score(net, image_batches.EvalBatches(source, 6, 32), 3)
    last = tiny.metrics_of(folder)[-1]
    assert found.top1 == last["val_accuracy"] and found.loss == pytest.approx(last["val_loss"], rel=1e-5)


WORKER = """
import sys
sys.path.insert(0, {root!r})
from model import imagenet_resnet
imagenet_resnet.BLOCKS, imagenet_resnet.WIDTHS = (1, 1, 1, 1), (8, 8, 16, 16)
import train_imagenet
from engine.cli.program import run_script
run_script(train_imagenet.main)
"""


def test_two_workers_of_pytorch_are_two_devices_of_mxnet_which_resumes_their_run(tmp_path, narrow, monkeypatch):
    """Each worker reads its share of every batch, and one of them writes: the files of one process with two devices."""
    pytest.importorskip("torch", reason="PyTorch is not installed (requirements-torch.txt)")
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    for split, counts in (("train", (8, 8, 8)), ("val", (2, 2, 2))):
        imagenet_files.folder(tmp_path / "data" / split, counts, seed=len(split))
    data = str(tmp_path / "data")
    how = ["--recipe", "paper", "--lr", ".001", "--input-size", "64", "--save-interval", "2"]
    one = trained(tmp_path / "one", data, "--gpus", "0,1", *how, "--num-epochs", "1")
    (tmp_path / "two").mkdir()
    (tmp_path / "worker.py").write_text(WORKER.format(root=str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(tmp_path / "worker.py"),
         "--backend", "torch", "--gpus", "", "--no-tune", *SHORT, "--data-dir", data, *how, "--save-dir", "run",
         "--num-epochs", "1"], cwd=tmp_path / "two", capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "global batch 8 (4 on each of 2 devices, 1 in each of 2 workers), 3 steps an epoch" in done.stderr
    two = tmp_path / "two" / "run"
    assert sorted(os.listdir(two)) == sorted(RESULTS)
    (found, attached), (expected, theirs) = (params_file.read(folder / "last.params") for folder in (two, one))
    assert set(attached) == set(theirs) and "running/1/bn1.running_mean.npy" in attached
    for name, value in expected.items():
        if "running_var" not in name:  # which PyTorch does not bias (docs/FIDELITY.md)
            np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=5e-5, err_msg=name)
    (ours,), (theirs,) = tiny.metrics_of(two), tiny.metrics_of(one)
    assert (ours["train_images"], ours["val_images"]) == (theirs["train_images"], theirs["val_images"]) == (24, 6)
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
    result = train(tmp_path / "two", data, "--gpus", "0,1", *how, "--resume", "run")
    assert result.status == 0 and len(tiny.metrics_of(two)) == 2, result.err
