"""Weights to nets: pretrained ones, the authors' array names and ours, every kind of parameter file."""
import hashlib
import json

import mxnet as mx
import numpy as np
import pytest
from authors_names import to_authors
from numpy_units import filled

import model
from model import activation, get_model, list_models, load_params, weights
from model.array_names import from_authors
from model.cifar_resnet import CIFARResNetV2
from support import params_file
from support.errors import InputError

IMAGES = np.random.RandomState(5).normal(0, 1, (2, 3, 32, 32)).astype("float32")
STATISTICS = ("gamma", "beta", "running_mean", "running_var")


def arrays_of(net):
    return {name: parameter.data().asnumpy() for name, parameter in net._collect_params_with_prefix().items()}


def logits_of(net, ctx=None):
    return net(mx.nd.array(IMAGES, ctx=ctx or mx.cpu())).asnumpy()


# Pretrained weights.

def published(folder, name="atac_resnet20_v2", arguments=None, **more):
    """A net saved into folder with a manifest that lists it; returns the net."""
    arguments = {"blocks": 1, "classes": 10} if arguments is None else arguments
    net = filled(get_model(name, **arguments))
    path = folder / "weights.params"
    arrays = {key: value.data().asnumpy() for key, value in net._collect_params_with_prefix().items()}
    params_file.write(path, arrays, {})
    entry = {"model": name, "arguments": arguments, "file": "weights.params",
             "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "score": 0.7, **more}
    (folder / "manifest.json").write_text(json.dumps({"models": [entry]}))
    return net


def listing(folder, **changes):
    """Change the one entry of a folder's manifest."""
    path = folder / "manifest.json"
    entry, = json.loads(path.read_text())["models"]
    path.write_text(json.dumps({"models": [{**entry, **changes}]}))


@pytest.mark.parametrize("listed, asked", [
    ({"blocks": 1, "classes": 10}, {"blocks": 1}),
    ({"blocks": 1, "classes": 10}, {"blocks": 1, "classes": 10, "reduction": 2, "inner_relu": True}),
    ({"blocks": 1, "reduction": 2}, {"blocks": 1, "replaced_sites": None}),
    ({"blocks": 1, "reduction": 4, "classes": 100}, {"blocks": 1, "reduction": 4, "classes": 100}),
])
def test_pretrained_finds_the_weights_of_this_very_net(tmp_path, listed, asked):
    source = published(tmp_path, arguments=listed)
    net = get_model("ATAC_resnet20_v2", pretrained=True, root=str(tmp_path), **asked)
    np.testing.assert_array_equal(logits_of(net), logits_of(source))


@pytest.mark.parametrize("name, arguments", [
    ("genet_resnet20_v2", {"blocks": 1, "variant": "theta_plus"}), ("senet_resnet20_v2", {"blocks": 1}),
    ("localsenet_resnet20_v2", {"blocks": 1}), ("resnet20_v2", {"blocks": 1}), ("nin_resnet20_v2", {"blocks": 1})])
def test_pretrained_works_for_every_kind_of_net(tmp_path, name, arguments):
    source = published(tmp_path, name, arguments)
    full = dict(arguments, reduction=16) if name in ("genet_resnet20_v2", "senet_resnet20_v2") else arguments
    net = get_model(name, pretrained=True, root=tmp_path, **full)
    np.testing.assert_array_equal(logits_of(net), logits_of(source))


def test_pretrained_goes_to_the_devices_asked_for(tmp_path):
    source = published(tmp_path)
    net = get_model("atac_resnet20_v2", blocks=1, pretrained=True, root=tmp_path, ctx=[mx.cpu(0), mx.cpu(1)])
    assert net.output.weight.list_ctx() == [mx.cpu(0), mx.cpu(1)]
    np.testing.assert_array_equal(logits_of(net, mx.cpu(1)), logits_of(source))


@pytest.mark.parametrize("name, asked, said", [
    ("atac_resnet20_v2", {}, "for atac_resnet20_v2 with blocks=3, classes=10, reduction=2, inner_relu=True; "
     "there are some for atac_resnet20_v2 with blocks=1, classes=10, reduction=2, inner_relu=True"),
    ("resnet20_v2", {"blocks": 1}, "for resnet20_v2; there are some for atac_resnet20_v2"),
    ("atac_resnet20_v2", {"blocks": 1, "reduction": 4},
     "for atac_resnet20_v2 with blocks=1, classes=10, reduction=4, inner_relu=True; "
     "there are some for atac_resnet20_v2 with blocks=1, classes=10, reduction=2, inner_relu=True"),
    ("atac_resnet20_v2", {"blocks": 1, "classes": 100},
     "for atac_resnet20_v2 with blocks=1, classes=100, reduction=2, inner_relu=True; "
     "there are some for atac_resnet20_v2 with blocks=1, classes=10, reduction=2, inner_relu=True; "
     "load_params(net, FILE, ignore_output=True) loads all but the output")])
def test_pretrained_of_another_net_says_what_differs(tmp_path, name, asked, said):
    published(tmp_path)
    with pytest.raises(InputError) as caught:
        get_model(name, pretrained=True, root=tmp_path, **asked)
    assert str(caught.value) == f"no pretrained weights {said}"


def test_pretrained_says_what_the_entries_have(tmp_path):
    published(tmp_path)
    entry, = json.loads((tmp_path / "manifest.json").read_text())["models"]
    others = [{**entry, "arguments": {"blocks": 1, "reduction": 4}}]
    (tmp_path / "manifest.json").write_text(json.dumps({"models": [entry, *others]}))
    with pytest.raises(InputError, match="with blocks=3, .*; there are some for atac_resnet20_v2 with blocks=1, .*"
                                         "reduction=2, .* or atac_resnet20_v2 with blocks=1, .*reduction=4, "):
        get_model("atac_resnet20_v2", pretrained=True, root=tmp_path)


@pytest.mark.parametrize("damage, said", [
    (lambda folder: (folder / "weights.params").unlink(), "weights.params is missing or is not the file"),
    (lambda folder: (folder / "weights.params").write_bytes(b"?"), "weights.params is missing or is not the file"),
    (lambda folder: published(folder, sha256="0" * 64), "weights.params is missing or is not the file"),
    (lambda folder: (folder / "manifest.json").unlink(), "manifest.json cannot be used: No such file"),
    (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be used: no JSON"),
    (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json cannot be used: it is not an object"),
    (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest.json cannot be used: it has no 'models'"),
    (lambda folder: (folder / "manifest.json").write_text('{"models": [{"file": "a"}]}'),
     r"models\[0\] has no 'model'; restore it"),
    (lambda folder: (folder / "manifest.json").write_bytes(b"\xff" * 9000), "no UTF-8 text at byte 0; restore it"),
    (lambda folder: published(folder, sha256="X"), r"models\[0\].sha256 is not a SHA-256"),
    (lambda folder: listing(folder, name=["x"]), r"models\[0\].name is not text"),
    (lambda folder: published(folder, urls="https://x"), r"models\[0\].urls is not a list"),
    (lambda folder: listing(folder, file="../weights.params"), "file is not the name of a file without a folder"),
    (lambda folder: listing(folder, file=3), "file is not the name of a file"),
    (lambda folder: listing(folder, arguments=[1]), "arguments is not an object"),
    (lambda folder: listing(folder, arguments={"wings": 2}), "has no argument 'wings'.*; restore it"),
    (lambda folder: (folder / "manifest.json").write_text('{"models": [7]}'), "manifest.json cannot be used: models"),
    (lambda folder: (folder / "manifest.json").write_text('{"models": []}'), "no pretrained .* some for no net"),
])
def test_a_damaged_folder_of_weights_is_a_sentence(tmp_path, damage, said):
    published(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=said):
        get_model("atac_resnet20_v2", blocks=1, pretrained=True, root=tmp_path)


def test_weights_may_be_known_by_their_git_blob_alone(tmp_path):
    published(tmp_path)
    content = (tmp_path / "weights.params").read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    source = published(tmp_path, sha256=None, git_blob=blob)
    net = get_model("atac_resnet20_v2", blocks=1, pretrained=True, root=tmp_path)
    np.testing.assert_array_equal(logits_of(net), logits_of(source))
    for other in ({"git_blob": "0" * 40}, {"git_blob": None}, {}):
        published(tmp_path, sha256=None, **other)  # a file that nothing vouches for is not loaded
        with pytest.raises(InputError, match="weights.params is missing or is not the file"):
            get_model("atac_resnet20_v2", blocks=1, pretrained=True, root=tmp_path)


def test_the_authors_weights_are_an_entry_of_their_net():
    name, file = "atac_resnet50_v1b_official", weights.SHIPPED / "atac_resnet50_v1b_official.params"
    if file.exists():
        pytest.skip("the authors' file has been fetched")
    for wanted in (True, name):  # the net of the defaults; last_gamma is no part of what it is
        for start in ({}, {"last_gamma": True}):
            with pytest.raises(InputError, match=f"{name}.params is missing .* scripts/download_params.sh {name}"):
                get_model("atac_resnet50_v1b", pretrained=wanted, **start)
    for other in ({"act_layers": 4}, {"inner_relu": False}, {"reduction": 4}, {"classes": 10}):
        with pytest.raises(InputError, match="no pretrained weights for atac_resnet50_v1b"):
            get_model("atac_resnet50_v1b", pretrained=True, **other)


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path):
    inner = tmp_path / "params"
    inner.mkdir()
    published(inner)
    (inner / "weights.params").rename(tmp_path / "weights.params")
    manifest = json.loads((inner / "manifest.json").read_text())
    manifest["models"][0]["file"] = "../weights.params"
    (inner / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="is not the name of a file without a folder"):
        get_model("atac_resnet20_v2", blocks=1, pretrained=True, root=inner)


def test_a_name_of_any_length_is_shown_in_part(tmp_path):
    net = filled(get_model("resnet20_v2", blocks=1))
    arrays = {key: value.data().asnumpy() for key, value in net._collect_params_with_prefix().items()}
    for name in ("a" * 70_000, "two\nlines"):
        params_file.write(tmp_path / "x.params", {**arrays, name: np.ones(1, "float32")}, {})
        with pytest.raises(InputError, match="it has 1 that the net does not") as caught:
            model.load_params(net, tmp_path / "x.params")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


# The authors' names.

def authors_pairs(blocks, first=0, inner_relu=True, unit=True):
    """(ours, the authors') of every array of a CIFAR net, written out from section 4 of the specification.

    first: index of the gate's first convolution, 1 with the global pool. unit: False for a ReLU net.
    """
    second = first + (3 if inner_relu else 2)
    inside = [f"{index}.weight" for index in (first, second)]
    inside += [f"{index + 1}.{number}" for index in (first, second) for number in STATISTICS]
    same = [f"features.{index}.{number}" for index in (0, 5) for number in STATISTICS]
    same += ["features.1.weight", "output.weight", "output.bias",
             "features.3.0.downsample.weight", "features.4.0.downsample.weight"]
    pairs = []
    for stage in (2, 3, 4):
        for block in range(blocks):
            name = f"features.{stage}.{block}"
            same += [f"{name}.conv1.weight", f"{name}.conv2.weight"]
            same += [f"{name}.{norm}.{number}" for norm in ("bn1", "bn2") for number in STATISTICS]
            if unit:
                pairs += [(f"{name}.act{act}.gate.{one}", f"{name}.msAA{act}.module.{one}")
                          for act in (1, 2) for one in inside]
    if unit:
        pairs += [(f"features.6.gate.{one}", f"features.6.module.{one}") for one in inside]
    return pairs + [(name, name) for name in same]


AUTHORS = [
    ("atac_resnet20_v2", {"blocks": 1}, {"blocks": 1}),
    ("atac_resnet20_v2", {"blocks": 3, "classes": 100}, {"blocks": 3}),
    ("atac_resnet20_v2", {"blocks": 1, "reduction": 4, "inner_relu": False}, {"blocks": 1, "inner_relu": False}),
    ("seactivation_resnet20_v2", {"blocks": 2}, {"blocks": 2, "first": 1}),
    ("seactivation_resnet20_v2", {"blocks": 1, "inner_relu": False}, {"blocks": 1, "first": 1, "inner_relu": False}),
    ("resnet20_v2", {"blocks": 2}, {"blocks": 2, "unit": False}),
]


@pytest.mark.parametrize("name, arguments, described", AUTHORS)
def test_names_go_both_ways(name, arguments, described):
    pairs = authors_pairs(**described)
    assert {ours for ours, _ in pairs} == set(get_model(name, **arguments)._collect_params_with_prefix())
    for ours, theirs in pairs:
        assert to_authors(ours) == theirs
        assert from_authors(theirs) == ours
        assert from_authors(ours) == ours


def test_to_the_authors_and_back_is_the_identity():
    for name in list_models():
        arguments = {"blocks": 2} if name.endswith("resnet20_v2") else {}
        names = list(get_model(name, **arguments)._collect_params_with_prefix())
        theirs = [to_authors(ours) for ours in names]
        assert [from_authors(one) for one in theirs] == names
        assert len(set(theirs)) == len(names)


def test_names_of_the_released_imagenet_file():
    for ours, theirs in (
            ("layer3.0.act1.gate.0.weight", "layer3.0.relu1.module.0.weight"),
            ("layer3.0.act1.gate.1.running_var", "layer3.0.relu1.module.1.running_var"),
            ("layer3.5.act2.gate.3.weight", "layer3.5.relu2.module.3.weight"),
            ("layer4.2.act2.gate.4.gamma", "layer4.2.relu2.module.4.gamma"),
            *((name, name) for name in ("conv1.weight", "bn1.gamma", "fc.bias", "layer3.0.bn1.gamma",
                                        "layer4.0.downsample.1.beta"))):
        assert from_authors(theirs) == ours
        assert to_authors(ours) == theirs


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name, arguments, described", AUTHORS)
def test_a_file_of_the_authors_gives_the_logits_of_its_net(tmp_path, name, arguments, described, dtype):
    source = filled(get_model(name, **arguments), dtype=dtype)
    arrays = source._collect_params_with_prefix()
    path = str(tmp_path / "authors.params")
    mx.nd.save(path, {theirs: arrays[ours].data().astype(dtype) for ours, theirs in authors_pairs(**described)})
    net = get_model(name, **arguments)
    assert load_params(net, path) is net
    np.testing.assert_array_equal(logits_of(net), logits_of(source))
    assert {parameter.data().dtype for parameter in net.collect_params().values()} == {np.float32}


# load_params.

def states():
    """Nets as users hand them over: fresh, initialized, hybridized, compiled, on two devices."""
    def initialized(net):
        net.initialize()

    def hybridized(net):
        net.initialize()
        net.hybridize()

    def compiled(net):
        net.initialize()
        net.hybridize(static_alloc=True, static_shape=True)
        logits_of(net)

    def on_two_devices(net):
        net.initialize(ctx=[mx.cpu(1), mx.cpu(2)])
        net.hybridize()
        logits_of(net, mx.cpu(2))

    return {"fresh": lambda net: None, "initialized": initialized, "hybridized": hybridized, "compiled": compiled,
            "on two devices": on_two_devices}


@pytest.mark.parametrize("state, ctx", [*((state, [mx.cpu(0), mx.cpu(1)]) for state in states()),
                                        ("on two devices", mx.cpu()), ("compiled", [mx.cpu(3)])])
def test_our_own_file_loads_into_a_net_in_any_state(tmp_path, state, ctx):
    source = filled(get_model("atac_resnet20_v2", blocks=1))
    source.save_parameters(str(tmp_path / "own.params"))
    net = get_model("atac_resnet20_v2", blocks=1)
    states()[state](net)
    load_params(net, tmp_path / "own.params", ctx)
    devices = ctx if isinstance(ctx, list) else [ctx]
    assert all(parameter.list_ctx() == devices for parameter in net.collect_params().values())
    for device in devices:
        for name, value in arrays_of(source).items():
            found = net._collect_params_with_prefix()[name].data(device)
            np.testing.assert_array_equal(found.asnumpy(), value)
        np.testing.assert_allclose(logits_of(net, device), logits_of(source), rtol=1e-5, atol=1e-6)


def test_a_loaded_net_can_be_trained(tmp_path):
    source = filled(get_model("atac_resnet20_v2", blocks=1))
    source.save_parameters(str(tmp_path / "own.params"))
    net = load_params(get_model("atac_resnet20_v2", blocks=1), tmp_path / "own.params")
    with mx.autograd.record():
        loss = net(mx.nd.array(IMAGES)).square().sum()
    loss.backward()
    mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1}).step(2)
    assert np.abs(arrays_of(net)["features.1.weight"] - arrays_of(source)["features.1.weight"]).max() > 0


def test_loading_draws_no_random_numbers(tmp_path):
    filled(get_model("resnet20_v2", blocks=1)).save_parameters(str(tmp_path / "own.params"))
    drawn = []
    for load in (False, True):
        mx.random.seed(7)
        np.random.seed(7)
        if load:
            load_params(get_model("resnet20_v2", blocks=1), tmp_path / "own.params")
        drawn.append((float(mx.nd.random.uniform().asscalar()), np.random.rand()))
    assert drawn[0] == drawn[1]


def test_gluon_reads_what_we_write_and_we_read_what_gluon_writes(tmp_path):
    source = filled(get_model("xunit_resnet20_v2", blocks=1))
    path = str(tmp_path / "own.params")
    params_file.write(path, {name: parameter.data().asnumpy() for name, parameter
                             in source._collect_params_with_prefix().items()}, {"settings.json": b"{}"})
    by_gluon, by_us = get_model("xunit_resnet20_v2", blocks=1), get_model("xunit_resnet20_v2", blocks=1)
    by_gluon.load_parameters(path)
    source.save_parameters(str(tmp_path / "gluon.params"))
    load_params(by_us, tmp_path / "gluon.params")
    np.testing.assert_array_equal(logits_of(by_gluon), logits_of(source))
    np.testing.assert_array_equal(logits_of(by_us), logits_of(source))


def test_numbers_are_cast_to_the_nets_type(tmp_path):
    source = filled(get_model("atac_resnet20_v2", blocks=1))
    source.save_parameters(str(tmp_path / "single.params"))
    net = get_model("atac_resnet20_v2", blocks=1)
    net.cast("float64")
    load_params(net, tmp_path / "single.params")
    assert {parameter.data().dtype for parameter in net.collect_params().values()} == {np.float64}
    for name, value in arrays_of(source).items():
        np.testing.assert_array_equal(arrays_of(net)[name], value)


@pytest.mark.parametrize("other, arguments, said", [
    ("resnet20_v2", {"blocks": 1}, "it lacks 70 arrays (features.2.0.act1.gate.0.weight, "),
    ("atac_resnet20_v2", {"blocks": 2}, "that the net does not (features.2.1.act1.gate.0.weight, "),
    ("atac_resnet20_v2", {"blocks": 1, "classes": 100},
     "2 differ in shape (output.weight is (100, 64) in the file and (10, 64) in the net)"),
    ("atac_resnet20_v2", {"blocks": 1, "reduction": 4}, "42 differ in shape"),
    ("seactivation_resnet20_v2", {"blocks": 1}, "it lacks"),
    ("atac_resnet20_v2", {"blocks": 1, "inner_relu": False}, "it lacks"),
])
def test_another_nets_file_changes_nothing(tmp_path, other, arguments, said):
    filled(get_model(other, **arguments), seed=1).save_parameters(str(tmp_path / "other.params"))
    for state in ("fresh", "compiled"):
        net = get_model("atac_resnet20_v2", blocks=1)
        states()[state](net)
        before = None if state == "fresh" else arrays_of(net)
        with pytest.raises(InputError) as caught:
            load_params(net, tmp_path / "other.params", [mx.cpu(0), mx.cpu(1)])
        message = str(caught.value)
        assert said in message and message.startswith(str(tmp_path / "other.params")) and "\n" not in message
        if before is None:
            assert all(parameter._data is None for parameter in net.collect_params().values())
        else:
            assert net.output.weight.list_ctx() == [mx.cpu()]
            for name, value in arrays_of(net).items():
                np.testing.assert_array_equal(value, before[name])


def test_one_array_of_a_wrong_shape_or_with_nan_changes_nothing(tmp_path):
    arrays = arrays_of(filled(get_model("resnet20_v2", blocks=1)))
    net = filled(get_model("resnet20_v2", blocks=1), seed=1)
    before = arrays_of(net)
    for wrong, said in ((np.zeros((10, 32), "float32"), "1 differ in shape"),
                        (np.full((10, 64), np.nan, "float32"), "impossible numbers in output.weight"),
                        (np.full((10, 64), np.inf, "float32"), "impossible numbers in output.weight"),
                        (np.zeros((10, 64), "int32"), "int32 numbers in output.weight")):
        mx.nd.save(str(tmp_path / "wrong.params"),
                   {name: mx.nd.array(value, dtype=value.dtype)
                    for name, value in {**arrays, "output.weight": wrong}.items()})
        with pytest.raises(InputError, match=said):
            load_params(net, tmp_path / "wrong.params")
        for name, value in arrays_of(net).items():
            np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("content", [None, b"", b"not a parameter file", b"\x12\x01"])
def test_what_is_no_parameter_file_is_a_sentence(tmp_path, content):
    path = tmp_path / "x.params"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="x.params (cannot be read|is not a usable parameter file)"):
        load_params(get_model("resnet20_v2", blocks=1), path)


def test_mixed_nets_load_too(tmp_path):
    units = [activation.PReLU] * 3 + [activation.ATAC] * 3 + [activation.NiN]
    source = filled(CIFARResNetV2(1, activation=units))
    source.save_parameters(str(tmp_path / "mixed.params"))
    net = load_params(CIFARResNetV2(1, activation=units), tmp_path / "mixed.params")
    np.testing.assert_array_equal(logits_of(net), logits_of(source))
