"""Parameter files as people have them: every form that MXNet and NumPy write, loaded into another copy of the net."""
import io
import re
import tracemalloc
import zipfile

import mxnet as mx
import numpy as np
import pytest

from model import ATAC, NiN, fuse, get_model, imagenet_resnet, load_params
from model.array_names import classes_of, head_of
from model.cifar_resnet import CIFARResNetV2
from model.graph import parameters_of
from support import params_file
from support.errors import InputError

NETS = {"cifar": ("atac_resnet20_v2", {"blocks": 1}, 32), "imagenet": ("atac_resnet50_v1b", {"classes": 7}, 64),
        "attention": ("fa_resnet50_v1b", {"classes": 7}, 64)}  # whose arrays export writes in another order


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """ResNet-50s of a sixteenth of the numbers."""
    monkeypatch.setattr(imagenet_resnet, "WIDTHS", (16, 16, 32, 32))
    monkeypatch.setattr(imagenet_resnet, "STEM_CHANNELS", 16)


def made(kind, seed=0, **more):
    """A net with numbers of its own in every array that matters."""
    name, arguments, _ = NETS[kind]
    net = get_model(name, **{**arguments, **more})
    net.initialize()
    generator = np.random.RandomState(seed)
    for parameter in net.collect_params().values():
        if not (parameter.name.endswith("gamma") and not parameter._differentiable):  # a gamma that MXNet sets to 1
            parameter.set_data(mx.nd.array(generator.uniform(.5, 1.5, parameter.shape)))
    return net


def numbers_of(net):
    return {name: parameter.data().asnumpy() for name, parameter in net._collect_params_with_prefix().items()}


def gluon_names(net, start=""):
    return {start + parameter.name: parameter.data().asnumpy() for parameter in net.collect_params().values()}


def export(net, kind, folder):
    size = NETS[kind][2]
    net.hybridize()
    net(mx.nd.zeros((1, 3, size, size)))
    net.export(str(folder / "x"))
    return folder / "x-0000.params"


def save(write):
    """A writer of one file."""
    def written(net, kind, folder):
        write(net, str(folder / "x.params"))
        return folder / "x.params"
    return written


def npz(names, write=np.savez, dtype="float32"):
    def written(net, kind, folder):
        write(folder / "x.npz", **{name: value.astype(dtype) for name, value in names(net).items()})
        return folder / "x.npz"
    return written


FORMS = {  # a writer, and what is said of its file
    "save_parameters": (save(lambda net, path: net.save_parameters(path)), "MXNet", "save_parameters"),
    "export": (export, "MXNet", "export"),
    "collect_params": (save(lambda net, path: net.collect_params().save(path)), "MXNet", "collect_params().save()"),
    "strip_prefix": (save(lambda net, path: net.collect_params().save(path, strip_prefix=net.prefix)), "MXNet",
                     "collect_params().save()"),
    "savez": (npz(numbers_of), "NumPy", "save_parameters"),
    "savez_compressed, in another order": (npz(lambda net: dict(sorted(gluon_names(net).items())),
                                               np.savez_compressed), "NumPy", "collect_params().save()"),
    "savez, big-endian float64": (npz(lambda net: gluon_names(net, "arg:"), dtype=">f8"), "NumPy", "export"),
}


@pytest.mark.parametrize("form, kind", [
    *((form, "cifar") for form in FORMS), ("export", "imagenet"), ("export", "attention"),
    ("save_parameters", "imagenet"), ("savez, big-endian float64", "imagenet")])
def test_a_file_of_any_form_gives_its_numbers_to_another_copy_of_the_net(tmp_path, form, kind):
    write, library, names = FORMS[form]
    source, other = made(kind), made(kind, seed=1)
    assert source.prefix != other.prefix  # Gluon has counted
    path, sentences = write(source, kind, tmp_path), []
    assert load_params(other, path, say=sentences.append) is other
    expected, found = numbers_of(source), numbers_of(other)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert sentences == [f"weights from {path}: {library}'s file, {len(expected)} arrays under the names of {names}"]
    assert classes_of(params_file.read(path)[0]) == (10 if kind == "cifar" else 7)


def test_load_params_prints_its_sentence_and_may_be_silent(tmp_path, capsys):
    net = made("cifar")
    net.save_parameters(str(tmp_path / "x.params"))
    load_params(net, tmp_path / "x.params")
    assert capsys.readouterr().out == (f"weights from {tmp_path}/x.params: MXNet's file, 113 arrays under the names "
                                       "of save_parameters\n")
    load_params(net, tmp_path / "x.params", say=None)
    assert capsys.readouterr().out == ""


def test_a_net_whose_fused_twin_was_used_is_exported_and_so_is_the_twin(tmp_path):
    source = made("cifar")
    forward, sentence = fuse(source)
    forward(mx.nd.zeros((1, 3, 32, 32)))
    paths = [export(source, "cifar", tmp_path)]
    if "fused C++ operators for the whole net" in sentence:
        forward.inference.hybridize()
        forward(mx.nd.zeros((1, 3, 32, 32)))
        forward.inference.export(str(tmp_path / "twin"))
        paths.append(tmp_path / "twin-0000.params")
    for path in paths:
        other, sentences = made("cifar", seed=1), []
        load_params(other, path, say=sentences.append)
        for name, value in numbers_of(source).items():
            np.testing.assert_array_equal(numbers_of(other)[name], value)
        # The operators have no use for the one gamma that is always 1.
        assert ("without features.0.gamma, which MXNet takes for 1" in sentences[0]) == (path != paths[0])


# Without the last layer.

def test_another_head_is_kept_and_all_else_is_loaded(tmp_path):
    for kind in NETS:
        source = made(kind)
        for write, *_ in FORMS.values() if kind == "cifar" else [FORMS["export"]]:
            path = write(source, kind, tmp_path)
            target = made(kind, seed=1, classes=3)
            before, head, sentences = numbers_of(target), head_of(parameters_of(target)), []
            with pytest.raises(InputError, match="2 differ in shape .*; ignore_output=True .--ignore-output"):
                load_params(target, path)
            assert all((numbers_of(target)[name] == value).all() for name, value in before.items())
            load_params(target, path, ignore_output=True, say=sentences.append)
            expected = {**numbers_of(source), **{name: before[name] for name in head}}
            for name, value in numbers_of(target).items():
                np.testing.assert_array_equal(value, expected[name])
            assert sentences[0].endswith(f"{head[0]}, {head[1]} are the net's own")


def test_a_head_of_the_same_length_is_kept_too(tmp_path):
    source, target = made("cifar"), made("cifar", seed=1)
    source.save_parameters(str(tmp_path / "x.params"))
    kept = numbers_of(target)["output.weight"]
    load_params(target, tmp_path / "x.params", ignore_output=True)
    np.testing.assert_array_equal(numbers_of(target)["output.weight"], kept)


def test_a_fresh_net_gets_a_head_that_can_be_trained(tmp_path):
    made("cifar").save_parameters(str(tmp_path / "x.params"))
    net = get_model("atac_resnet20_v2", blocks=1, classes=3)
    load_params(net, tmp_path / "x.params", [mx.cpu(0), mx.cpu(1)], ignore_output=True)
    assert net.output.weight.list_ctx() == [mx.cpu(0), mx.cpu(1)] and net.output.weight.data(mx.cpu(1)).asnumpy().any()


def test_the_features_of_a_net_are_its_file_without_a_head(tmp_path):
    source, target = made("cifar"), made("cifar", seed=1)
    source.features.save_parameters(str(tmp_path / "x.params"))
    source.features.collect_params().save(str(tmp_path / "y.params"))
    for name, said in (("x.params", "features.save_parameters"), ("y.params", "collect_params().save()")):
        with pytest.raises(InputError, match=r"lacks 2 arrays \(output.bias, output.weight\); ignore_output=True"):
            load_params(target, tmp_path / name)
        sentences = []
        load_params(target, tmp_path / name, ignore_output=True, say=sentences.append)
        assert f"111 arrays under the names of {said}; output.weight" in sentences[0]
        expected = numbers_of(source)
        for array, value in numbers_of(target.features).items():
            np.testing.assert_array_equal(value, expected[f"features.{array}"])
        load_params(made("cifar", seed=1).features, tmp_path / name)  # as well as into the features themselves


def test_a_net_without_a_head_has_none_to_ignore(tmp_path):
    features = made("cifar").features
    features.save_parameters(str(tmp_path / "x.params"))
    with pytest.raises(InputError, match="whose last layer is called output or fc"):
        load_params(features, tmp_path / "x.params", ignore_output=True)


# Names of another code, matched in order.

def renamed(net, change):
    """The net's arrays under changed names of Gluon, in the net's order."""
    return {change(name): mx.nd.array(value) for name, value in gluon_names(net, "").items()}


def flat(name):
    """A name as a code without scopes gives it."""
    name = re.sub(r"^resnet\d+_layer(\d)_bottleneck(\d)_(?!down)", r"other0_layers\1_b\2_", name)
    return name.replace("resnet", "rn")


def test_names_of_another_code_are_matched_in_order(tmp_path):
    source, target, sentences = made("imagenet"), made("imagenet", seed=1), []
    mx.nd.save(str(tmp_path / "x.params"), renamed(source, flat))
    load_params(target, tmp_path / "x.params", say=sentences.append)
    assert "in another code, matched by order, kind and shape" in sentences[0]
    for name, value in numbers_of(source).items():
        np.testing.assert_array_equal(numbers_of(target)[name], value)
    other = made("imagenet", seed=1, classes=3)
    load_params(other, tmp_path / "x.params", ignore_output=True)
    np.testing.assert_array_equal(numbers_of(other)["layer4.2.conv3.weight"],
                                  numbers_of(source)["layer4.2.conv3.weight"])


def swapped(names, one, other):
    """The names in an order in which two layers of equal shapes have changed places."""
    return [name.replace(one, "!").replace(other, one).replace("!", other) for name in names]


@pytest.mark.parametrize("one, other", [
    ("other0_layers1_b1_conv1_", "other0_layers1_b2_conv1_"),  # the numbers fall
    ("other0_layers1_b0_conv2_", "rn_layer1_bottleneck0_down_conv0_")])  # what is elsewhere a down is no down here
def test_layers_that_could_have_changed_places_are_refused(tmp_path, one, other):
    source, target = made("imagenet"), made("imagenet", seed=1)
    arrays = {re.sub(r"rn\d+_", "rn_", name): value for name, value in renamed(source, flat).items()}
    assert load_params(target, saved(tmp_path, arrays)) is target
    names = swapped(arrays, one, other)
    assert set(names) == set(arrays) and names != list(arrays)
    before = numbers_of(target)
    with pytest.raises(InputError, match="may be layer1.* or another array of the net; write the file with net.save_p"):
        load_params(target, saved(tmp_path, {name: arrays[name] for name in names}))
    assert all((numbers_of(target)[name] == value).all() for name, value in before.items())


def saved(folder, arrays):
    mx.nd.save(str(folder / "x.params"), arrays)
    return folder / "x.params"


def test_arrays_in_the_order_of_the_alphabet_are_refused(tmp_path):
    arrays = renamed(made("imagenet"), flat)
    with pytest.raises(InputError, match="does not fit this net: its .* stands where the net has conv1.weight"):
        load_params(made("imagenet"), saved(tmp_path, dict(sorted(arrays.items()))))


def test_a_unit_of_other_arithmetic_is_refused_though_its_arrays_have_the_same_shapes(tmp_path):
    source = CIFARResNetV2(1, activation=NiN)
    source.initialize()
    target = CIFARResNetV2(1, activation=ATAC)
    assert [one.shape for one in source.collect_params().values()] \
        == [one.shape for one in target.collect_params().values()]
    with pytest.raises(InputError, match="nin0.* may be features.2.0.act1.gate.0.weight or another array"):
        load_params(target, export(source, "cifar", tmp_path))


@pytest.mark.parametrize("change, said", [
    (lambda arrays: {**arrays, "arg:" + next(iter(arrays)): mx.nd.ones(1)}, "it holds 114 arrays and the net has 113"),
    (lambda arrays: {f"arg:{name}": value for name, value in arrays.items() if "dense" not in name}, "it lacks 2"),
    (lambda arrays: {**{f"arg:{name}": value for name, value in arrays.items()},
                     "aux:" + next(iter(arrays)): mx.nd.ones(1)}, "it has the same name as arg: and"),
    (lambda arrays: {str(place): value for place, value in enumerate(arrays.values())}, "its 0 .* stands where"),
    (lambda arrays: {"a" * 70_000: mx.nd.ones(1)}, "it holds 1 arrays"),
    (lambda arrays: {}, "it holds 0 arrays")])
def test_names_that_fit_no_net_are_a_sentence(tmp_path, change, said):
    source = made("cifar")
    with pytest.raises(InputError, match=f"x.params does not fit this net: {said}") as caught:
        load_params(made("cifar"), saved(tmp_path, change(renamed(source, str))))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


# NumPy's archives from strangers.

def member(descr="'<f4'", shape="(2,)", data=bytes(8), version=b"\1\0", head=b"\x93NUMPY"):
    """An array as a member of an archive."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return head + version + len(text).to_bytes(2, "little") + text + data


def archive(members, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as writer:
        for name, content in members:
            writer.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8", "int8", ">u4", "bool"])
def test_what_numpy_saves_is_read_as_numpy_reads_it(tmp_path, dtype, shape):
    value = np.asfortranarray(np.arange(np.prod(shape)).reshape(shape).astype(dtype))
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "x.npz", **{"a.b": value, "größe": value.T})
        arrays, attachments = params_file.read(tmp_path / "x.npz")
        assert list(arrays) == ["a.b", "größe"] and attachments == {} and arrays["a.b"].dtype == value.dtype
        np.testing.assert_array_equal(arrays["a.b"], value)
        np.testing.assert_array_equal(arrays["größe"], value.T)


def test_an_archive_without_arrays_is_read(tmp_path):
    np.savez(tmp_path / "x.npz")
    assert params_file.read(tmp_path / "x.npz") == ({}, {})


@pytest.mark.parametrize("content, said", [
    (archive([("a.npy", member(shape=f"({2**62},)"))]), f"'a.npy' claims the shape .{2**62},. of float32 and has 8"),
    (archive([("a.npy", member(shape=f"({2**32}, {2**32})"))]), "claims the shape"),
    (archive([("a.npy", member(shape=f"(0, {2**62})", data=b""))]), "claims the shape"),
    (archive([("a.npy", member(shape="(" + "1, " * 40 + ")"))]), "claims the shape"),
    (archive([("a.npy", member(shape="(-2,)"))]), "claims the shape"),
    (archive([("a.npy", member(shape="(__import__('os').getpid(),)"))]), "does not start as an array of NumPy .*"),
    (archive([("a.npy", member(shape="(" + "1, " * 5000 + ")"))]), "does not start as an array of NumPy .*"),
    (archive([("a.npy", member("'|O'", data=b"\x80\x02cposix\nsystem\n"))]), "Python objects, which are never unpick"),
    (archive([("a.npy", member("'<U9'", data=bytes(72)))]), "'a.npy' holds <U9, not numbers"),
    (archive([("a.npy", member("'<c8'", data=bytes(16)))]), "'a.npy' holds complex64, not numbers"),
    (archive([("a.npy", member("[('x', '<f4')]"))]), "not numbers"),
    (archive([("a.npy", member(shape="-" * 5000 + "1"))]), "does not start as an array of NumPy .*"),
    (archive([("a.npy", member("'<f16'", data=bytes(32)))]), "not numbers"),
    (archive([("a.npy", member(version=b"\4\0"))]), "does not start as an array"),
    (archive([("a.npy", b"\x93NUMPY\1")]), "does not start as an array"),
    (archive([("a.npy", b"")]), "does not start as an array"),
    (archive([("data.pkl", b"x")]), "'data.pkl' is no array of numpy.savez .PyTorch's files are pickles"),
    (archive([("a.txt", b"x")]), "'a.txt' is no array of numpy.savez .a ZIP"),
    (archive([("a.npy", member())], zipfile.ZIP_BZIP2), "compressed or encrypted in a way"),
    (archive([("a.npy", member()), ("b.npy", member())]).replace(b"b.npy", b"a.npy"), "'a.npy' occurs twice"),
    (archive([("a.npy", member())])[:-30], "it is not sound"),
    (archive([("a.npy", member())]).replace(bytes(8), bytes(7) + b"\1", 1), "it is not sound"),
])
def test_hostile_archives_are_refused(tmp_path, content, said):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        params_file.read(tmp_path / "x.npz")
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "x.npz")) and "\n" not in message and len(message) < 700


@pytest.mark.parametrize("claimed, said", [(None, r"it claims to unpack to 41,943,\d{3} bytes"),
                                           (200, "it is not sound")])
def test_a_bomb_is_refused_without_its_memory(tmp_path, claimed, said):
    bomb = member(data=bytes(40 << 20))
    content = archive([("a.npy", bomb)], zipfile.ZIP_DEFLATED)
    if claimed:
        content = content.replace(len(bomb).to_bytes(4, "little"), claimed.to_bytes(4, "little"))
    (tmp_path / "x.npz").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match=said):
        params_file.read(tmp_path / "x.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20
