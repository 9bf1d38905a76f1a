"""The registry against the classes that it names: what it says without MXNet is what they say with it."""
import inspect

import pytest

from backend.gluon import fusable
from engine.cli import flags, net_flags
from model import registry, zoo
from model.registry import CIFAR, IMAGENET, IMAGENET_V1, MODELS, resolve
from support import import_hook

PARTS = [part for host in (CIFAR, IMAGENET) for part in host.parts.values()]
BUILT = [part for part in (*PARTS, *registry.GATHER_EXCITE.values()) if part.path]


def defaults_of(function, decided=()):
    """The keyword arguments of a function beside those that its caller decides, with their defaults."""
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()
            if name not in decided and parameter.kind is parameter.POSITIONAL_OR_KEYWORD}


@pytest.mark.parametrize("part", BUILT, ids=lambda part: part.path)
def test_the_arguments_of_a_part_are_those_of_its_class(part):
    assert {name: argument.default for name, argument in part.arguments.items()} \
        == defaults_of(part.constructor, ("self", "channels", "stride", "size"))


@pytest.mark.parametrize("host", [CIFAR, IMAGENET, IMAGENET_V1], ids=lambda host: host.name)
def test_the_arguments_of_a_host_are_those_of_its_class(host):
    own = defaults_of(resolve(host.path))
    declared = {name: argument.default for name, argument in {**host.arguments, **host.start}.items()}
    assert {name: own[name] for name in declared} == declared and set(host.fixed) <= set(own)
    assert own["input_size"] == host.image_size


@pytest.mark.parametrize("name", MODELS)
def test_a_place_hands_its_host_what_that_takes(name):
    host, part = MODELS[name]
    build = resolve(part.place.build)
    declared = {**host.arguments, **host.start, **part.place.arguments}
    needed = [argument for argument, default in defaults_of(build, ("host", "unit", "refinement", "layer")).items()
              if default is inspect.Parameter.empty]
    taken = set(defaults_of(build)) | set(defaults_of(resolve(host.path))) | {"variant"}
    assert set(needed) <= set(declared) <= taken


def test_the_names_of_the_nets():
    assert CIFAR.model("relu") == "resnet20_v2" and CIFAR.model("atac") == "atac_resnet20_v2"
    assert IMAGENET.short["resnet50"] == "resnet50_v1b" and IMAGENET_V1.model("se") == "se_resnet50_v1"
    assert zoo.list_models() == sorted(MODELS) and registry.net_of("ATAC_ResNet20_v2").part is registry.ATAC


def test_exactly_the_declared_classes_have_an_operator():
    class Mine(registry.ATAC.constructor):
        """A subclass may compute something else."""

    assert fusable.kind_of(registry.ATAC.constructor(8, inner_relu=False)) == "atac 0"
    assert fusable.kind_of(CIFAR.parts["leakyrelu"].constructor(8, 0.3)) == "leakyrelu 0.3"
    assert fusable.kind_of(CIFAR.parts["localsenet"].constructor(8), fusable.REFINEMENTS) == "atac 1"
    assert sorted(fusable.REFINEMENTS.values()) == ["atac {unit.inner_relu:d}", "se", "theta", "theta_minus",
                                                  "theta_plus"]
    for unit in (Mine(8), registry.SENET.constructor(8, reduction=1),
                 CIFAR.parts["sine"].constructor(8), CIFAR.parts["nin"].constructor(8, layers=1)):
        with pytest.raises(fusable.Unfit, match="^there is no fused "):
            fusable.kind_of(unit)


def test_a_flag_says_each_meaning_with_its_defaults(capsys):
    parser = flags.Parser(prog="script.py")
    net_flags.add_net_flags(parser, CIFAR, IMAGENET, without=IMAGENET.start)
    text = " ".join(parser.format_help().split())
    assert "--r R, --reduction R channel reduction ratio (default 2 for atac, seactivation, nin; 1 for localsenet; " \
        "16 for senet, genet, se, ge)" in text
    assert "depthwise kernel (default 9 for xunit); side of the window (default 7 for fa)" in text
    assert "--last-gamma" not in text


def test_mxnet_is_loaded_already_so_nothing_is_to_be_prepared(monkeypatch):
    monkeypatch.setattr(import_hook.sys, "meta_path", [])
    import_hook.install()
    assert import_hook.sys.meta_path == []
