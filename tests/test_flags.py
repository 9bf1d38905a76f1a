"""What the flags of the scripts mean, and what they refuse."""
import dataclasses

import pytest

from engine.cli import data_flags, flags, net_flags
from engine.recipe import CIFAR_PAPER, Recipe
from model.registry import CIFAR
from support.errors import InputError


def parser():
    made = flags.Parser(prog="script.py", description="100 % of it")
    net_flags.add_net_flags(made, CIFAR)
    data_flags.add_data_flags(made, "default cifar10")
    flags.add_recipe_flags(made, "train_cifar.py", "in the paper")
    flags.add_device_flags(made)
    return made


def net(*arguments):
    return net_flags.net_arguments(parser().parse_args(arguments), CIFAR)


def refused(capsys, *arguments):
    """The sentence for a command line that argparse refuses, with status 2."""
    with pytest.raises(SystemExit) as caught:
        parser().parse_args([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    assert error.startswith("script.py: ") and error.endswith(" (--help lists the flags)\n")
    return error


# The parser and its types.

def test_help_lists_the_flags(capsys):
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(["--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0 and "--useReLU" in shown and "100 % of it" in shown


def test_flags_are_not_guessed_from_a_part_of_them(capsys):
    assert "unrecognized arguments: --block 3" in refused(capsys, "--block", 3)


@pytest.mark.parametrize("flag, value, said", [  # one of each kind of flag
    ("--blocks", "0", "0 is below 1"), ("--blocks", "2.5", "'2.5' is not a whole number"), ("--blocks", "", "''"),
    ("--act-layers", "-1", "-1 is below 0"), ("--act-order", "front", "invalid choice: 'front'"),
    ("--alpha", "nan", "'nan' is not a finite number"), ("--beta", "inf", "'inf' is not a finite number"),
    ("--model", " ", "it is empty"), ("--data-dir", "", "it is empty"),
    ("--gpus", "x", "'x' is not a list of whole numbers"), ("--gpus", "0;1", "'0;1' is not a list of whole numbers"),
    ("--lr", "-0.1", "-0.1 is below 0"), ("--lr", "1e999", "'1e999' is not a finite number"),
    ("--lr-decay-epoch", "1.5", "'1.5' is not a list of whole numbers"),
    ("--no-wd", "yes", "'yes' is neither on nor off"), ("--mixup-alpha", "0", "0 is below"),
    # What MXNet would abort at, or build for hours.
    ("--blocks", "1001", "1001 is above 1000"), ("--classes", "9" * 30, "is above 100000"),
    ("--kernel-size", "1003", "1003 is above 1001"), ("--r", "2147483648", "2147483648 is above 2147483647"),
    ("--alpha", "1e300", "1e300 is above 3e+38"), ("--beta", "1e39", "1e39 is above 3e+38"),
    ("--gpus", "1024", "1024 has a number above 1023"), ("--gpus", "9" * 30, "has a number above 1023"),
    ("--lr-decay-epoch", "3,2147483648", "has a number above 2147483647")])
def test_a_wrong_value_is_one_sentence_that_names_flag_and_value(capsys, flag, value, said):
    error = refused(capsys, flag, value)
    assert flag in error and said in error


@pytest.mark.parametrize("value", ["a\nb", "a\r\n\nb", "x" * 5000, "9" * 5000, "a\u2028b"])
def test_a_message_is_one_line_and_no_longer_than_one_can_read(capsys, value):
    for flag in ("--blocks", "--mode", "--gpus", "--lr"):
        error = refused(capsys, flag, value)
        assert len(error.splitlines()) == 1 and len(error) < 1000 and flag in error


def test_numbers_of_every_kind():
    whole, below = flags.number(int, 0), flags.number(float, most=1)
    assert whole("0") == 0 and type(whole("7")) is int and below("1e-9") == 1e-9 and below("1") == 1
    with pytest.raises(flags.argparse.ArgumentTypeError, match="^1.1 is above 1$"):
        below("1.1")


def test_lists_of_numbers():
    assert flags.numbers("300,350") == (300, 350)
    assert flags.numbers(" 300 , 350,") == (300, 350)
    assert flags.numbers("") == ()


# The net.

def test_without_a_model_there_is_no_net():
    assert net() == (None, {}, [])
    assert net("--blocks", "3", "--r", "2") == (None, {"blocks": 3, "reduction": 2}, [])  # of the default or a file's
    for arguments in (["--useReLU"], ["--useGlobal"], ["--act-type", "relu"]):
        with pytest.raises(InputError, match="need --model atac$"):
            net(*arguments)


def test_names_of_the_zoo_and_their_short_forms():
    assert net("--model", "XUnit_ResNet20_v2") == ("xunit_resnet20_v2", {}, [])
    assert net("--model", "ATAC") == ("atac_resnet20_v2", {}, [])
    for name in ("atac", "nin", "localsenet", "senet", "genet"):
        assert net("--model", name) == (f"{name}_resnet20_v2", {}, [])  # an ATAC of ours has its ReLU


def test_every_flag_of_a_net_becomes_an_argument():
    given = ["--model", "x", "--blocks", "2", "--r", "4", "--alpha", ".2", "--beta", "1.5", "--kernel-size", "5",
             "--layers", "1", "--variant", "theta_plus", "--replaced-sites", "0", "--replace-from", "first",
             "--act-layers", "0", "--act-order", "pre", "--replace-act", "elu"]
    assert net(*given) == ("x", {
        "blocks": 2, "reduction": 4, "alpha": .2, "beta": 1.5, "kernel_size": 5, "layers": 1, "variant": "theta_plus",
        "replaced_sites": 0, "replace_from": "first", "act_layers": 0, "act_order": "pre", "replace_act": "elu"}, [])


def test_the_authors_attentional_units():
    with_relu = ["--model", "atac", "--useReLU", "--r", "2", "--blocks", "3"]
    arguments = {"blocks": 3, "reduction": 2}
    assert net(*with_relu, "--act-type", "ChaATAC") == ("atac_resnet20_v2", arguments, [])
    assert net(*with_relu) == ("atac_resnet20_v2", arguments, [])
    assert net(*with_relu, "--act-type", "chaatac", "--useGlobal") == ("seactivation_resnet20_v2", arguments, [])

    remark = ["no ReLU inside the unit: the authors' code has none without --useReLU; the paper has it"]
    assert net("--model", "atac", "--act-type", "ChaATAC") == ("atac_resnet20_v2", {"inner_relu": False}, remark)
    assert net("--model", "atac", "--useGlobal") == ("seactivation_resnet20_v2", {"inner_relu": False}, remark)


@pytest.mark.parametrize("unit", ["relu", "prelu", "elu", "selu", "gelu", "swish", "xunit"])
def test_the_authors_other_units(unit):
    name = "resnet20_v2" if unit == "relu" else f"{unit}_resnet20_v2"
    assert net("--model", "atac", "--act-type", unit, "--blocks", "1") == (name, {"blocks": 1}, [])
    assert net("--model", "atac", "--act-type", unit.upper(), "--r", "2", "--useReLU", "--useGlobal") == (
        name, {}, [f"--r, --useReLU, --useGlobal: no effect with --act-type {unit.upper()}"])


def test_the_authors_gradual_replacement():
    assert net("--model", "atac", "--act-type", "ChaATAC", "--useReLU", "--r", "2", "--act-layers", "2",
               "--act-order", "bac", "--replace-act", "relu") == (
        "atac_resnet20_v2", {"reduction": 2, "act_layers": 2, "act_order": "bac", "replace_act": "relu"}, [])


@pytest.mark.parametrize("arguments, sentence", [
    (["--model", "atac", "--act-type", "SpaATAC"],
     "unknown --act-type 'SpaATAC'; the types are ChaATAC, relu, prelu, elu, selu, gelu, swish, xunit"),
    (["--model", "senet", "--act-type", "relu"], "--act-type belongs to --model atac, not to --model senet"),
    (["--model", "atac_resnet20_v2", "--useReLU"], "--useReLU and --useGlobal belong to --model atac"),
    (["--model", "nin", "--useGlobal"], "--useReLU and --useGlobal belong to --model atac")])
def test_flags_that_contradict_each_other(arguments, sentence):
    with pytest.raises(InputError, match="^" + sentence):
        net(*arguments)


def test_a_net_in_words():
    assert net_flags.net_text("x", {"blocks": 3, "act_layers": None, "inner_relu": False, "alpha": 0}) \
        == "x, blocks=3, inner_relu=False, alpha=0"


# Data and devices.

def test_devices():
    for arguments, gpus in (([], (0,)), (["--gpus", "0,2"], (0, 2)), (["--gpus", ""], ()), (["--gpus="], ())):
        assert parser().parse_args(arguments).gpus == gpus
    for count, gpus in (("0", ()), ("1", (0,)), ("3", (0, 1, 2))):
        assert parser().parse_args(["--num-gpus", count]).gpus == gpus


def test_gpus_are_named_or_counted(capsys):
    assert "not allowed with argument --gpus" in refused(capsys, "--gpus", "0", "--num-gpus", "1")


def test_what_makes_a_cpu_fast_can_be_left_out():
    args = parser().parse_args([])
    assert (args.fused, args.tune) == ("auto", True)
    args = parser().parse_args(["--fused", "off", "--no-tune"])
    assert (args.fused, args.tune) == ("off", False)


# The recipe.

def test_a_flag_that_is_not_given_changes_nothing():
    assert flags.recipe_changes(parser().parse_args([])) == {}


def test_every_number_of_a_recipe_has_a_flag():
    given = ["--num-epochs", "7", "--batch-size", "8", "--lr", "0", "--momentum", "0", "--wd", "0", "--no-wd",
             "--lr-mode", "cosine", "--lr-decay", "0", "--lr-decay-epoch", "", "--lr-decay-period", "0",
             "--warmup-epochs", "0", "--warmup-lr", "0", "--label-smoothing", "0", "--mixup", "--mixup-alpha", "0.4",
             "--mixup-off-epoch", "2", "--accumulate", "4"]
    changes = flags.recipe_changes(parser().parse_args(given))
    assert changes == {"epochs": 7, "batch_size": 8, "lr": 0, "momentum": 0, "wd": 0, "no_wd": True,
                       "lr_mode": "cosine", "lr_decay": 0, "lr_decay_epochs": (), "lr_decay_period": 0,
                       "warmup_epochs": 0, "warmup_lr": 0, "label_smoothing": 0, "mixup_alpha": .4,
                       "mixup_off_epochs": 2, "accumulate": 4}
    assert set(changes) == {field.name for field in dataclasses.fields(Recipe)}
    dataclasses.replace(CIFAR_PAPER, **changes)


def test_flags_that_say_on_or_off_and_numbers_that_may_be_left_out():
    def changes(*arguments):
        return flags.recipe_changes(parser().parse_args(arguments))

    assert changes("--no-wd") == changes("--no-wd", "on") == {"no_wd": True} and changes("--no-wd", "off") == {
        "no_wd": False}
    assert changes("--label-smoothing") == {"label_smoothing": .1}
    assert changes("--label-smoothing", "--no-wd") == {"label_smoothing": .1, "no_wd": True}
    assert changes("--label-smoothing", ".2") == {"label_smoothing": .2}
    assert changes("--mixup") == {"mixup_alpha": .2}
    with pytest.raises(InputError, match="^--mixup-alpha needs --mixup$"):
        changes("--mixup-alpha", ".3")


def test_numbers_without_effect_are_remarked_on():
    def remarks(**changes):
        return flags.recipe_remarks(changes, dataclasses.replace(CIFAR_PAPER, **changes))

    assert remarks(lr=.1, lr_decay_epochs=(1, 2), lr_decay=.5, warmup_epochs=1, warmup_lr=.1) == []
    assert remarks(lr_mode="cosine", lr_decay_epochs=(1, 2)) \
        == ["lr_decay_epochs (1, 2) from the command line has no effect with --lr-mode cosine"]
    assert remarks(lr_decay_period=2, lr_decay=.5, lr_decay_epochs=(3,)) \
        == ["lr_decay_epochs (3,) from the command line has no effect with --lr-decay-period"]
    assert remarks(warmup_lr=.1) == ["warmup_lr 0.1 from the command line has no effect with --warmup-epochs 0"]


def test_a_flag_that_cannot_be_honoured_says_why(capsys):
    made = flags.Parser(prog="script.py")
    made.add_argument("--states", action=flags.Refused, why="it is a pickle")
    for arguments in (["--states"], ["--states", "x"]):
        with pytest.raises(SystemExit) as caught:
            made.parse_args(arguments)
        assert caught.value.code == 2 and capsys.readouterr().err.startswith("script.py: --states: it is a pickle (")
    assert "--states" not in made.format_help()
