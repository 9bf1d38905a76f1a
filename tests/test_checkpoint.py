"""Checkpoints: what comes back, who else can read them, and what is refused with nothing changed."""
import dataclasses
import io
import json
import os
import zipfile

import mxnet as mx
import numpy as np
import pytest
import tiny

import model
from backend.gluon import optimizer
from engine import checkpoint
from engine.steps import Diverged
from support import params_file
from support.errors import InputError


def trained(contexts=tiny.CPU, steps=3, net=None, **recipe):
    """A Program after some steps on noise."""
    program = tiny.program(tiny.ready(net or tiny.net(), contexts=contexts), contexts, **recipe)
    go_on(program, range(steps))
    return program


def go_on(program, seeds):
    def batches():
        for seed in seeds:
            generator = np.random.RandomState(seed)
            yield .1, generator.normal(0, 1, (8, 3, 32, 32)).astype("float32"), generator.randint(0, 10, 8)

    tiny.train(program, batches())


def everything(program):
    """The bits of all weights, master weights, statistics and momenta on every device."""
    return {(name, index): program.read(place).tobytes()
            for name, places in {**program.weights(), **program.momenta()}.items()
            for index, place in enumerate(places)}


def rewritten(path, change):
    """Pass the attachments of a file through change and write it anew, sound checksums included."""
    arrays, attachments = params_file.read(path)
    attachments = dict(attachments)
    change(attachments)
    attachments.pop(params_file.DIGEST)
    params_file.write(path, arrays, attachments)


def assert_refused(path, sentence, contexts=tiny.CPU, net=None, **recipe):
    """restore() raises one sentence and leaves the program as it was, to the bit."""
    program = trained(contexts, 2, net, **recipe)
    before = everything(program)
    with pytest.raises(InputError, match=sentence) as caught:
        tiny.restore(path, program)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert everything(program) == before


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "last.params"
    tiny.save(path, trained(), tiny.saved(seed=7, class_names=["ünï"]))
    return path


# What comes back.

@pytest.mark.parametrize("contexts", [tiny.CPU, tiny.TWO])
@pytest.mark.parametrize("momentum", [.9, 0.])
def test_a_restored_run_goes_on_to_the_bit(tmp_path, contexts, momentum):
    program = trained(contexts, momentum=momentum)
    tiny.save(tmp_path / "x.params", program, tiny.saved(seed=7))
    kept = everything(program)
    go_on(program, range(10, 13))

    again = tiny.program(tiny.ready(tiny.net(), 5, contexts), contexts, momentum=momentum)
    assert tiny.restore(tmp_path / "x.params", again) == tiny.saved(seed=7)
    assert everything(again) == kept
    go_on(again, range(10, 13))
    assert everything(again) == everything(program)


def test_a_net_that_has_been_trained_already_is_brought_back_too(tmp_path):
    program = trained(tiny.TWO)
    tiny.save(tmp_path / "x.params", program, tiny.saved())
    kept = everything(program)
    go_on(program, range(20, 22))
    tiny.restore(tmp_path / "x.params", program)
    assert everything(program) == kept


def test_a_run_that_has_made_no_step_can_be_saved(tmp_path):
    program = tiny.program(tiny.ready(tiny.net()))
    tiny.save(tmp_path / "x.params", program, tiny.saved())
    again = trained(steps=2)
    tiny.restore(tmp_path / "x.params", again)
    assert everything(again) == everything(program)


def test_devices_keep_their_own_statistics_and_the_file_holds_their_mean(tmp_path):
    program = trained(tiny.TWO)
    tiny.save(tmp_path / "x.params", program, tiny.saved())
    arrays, attachments = params_file.read(tmp_path / "x.params")
    first, second = tiny.numbers_of(program.net, 0), tiny.numbers_of(program.net, 1)
    assert (first["1.running_mean"] != second["1.running_mean"]).all()
    np.testing.assert_allclose(arrays["1.running_mean"], (first["1.running_mean"] + second["1.running_mean"]) / 2)
    assert {name for name in attachments if name.startswith("running/")} == {
        f"running/{device}/1.running_{kind}.npy" for device in (0, 1) for kind in ("mean", "var")}


def test_saving_changes_nothing(tmp_path):
    program = trained(tiny.TWO)
    before = everything(program)
    tiny.save(tmp_path / "x.params", program, tiny.saved())
    assert everything(program) == before


def test_equal_runs_make_equal_files(tmp_path):
    for name in ("a", "b"):
        tiny.save(tmp_path / name, trained(), tiny.saved())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_settings_come_back_as_they_were_written(saved):
    assert checkpoint.read(saved) == tiny.saved(seed=7, class_names=["ünï"])


def test_load_weights_gives_all_devices_the_files_weights(tmp_path):
    program = trained(tiny.TWO)
    program.average()
    tiny.save(tmp_path / "x.params", program, tiny.saved())
    other = tiny.ready(tiny.net(), 5, tiny.TWO)
    tiny.load_weights(tmp_path / "x.params", other)
    for device in (0, 1):
        for name, value in tiny.numbers_of(program.net, device).items():
            assert (tiny.numbers_of(other, device)[name] == value).all(), name


# Settings of a run, as a stranger might have written them.

STATE = {"epoch": 1, "step": 2, "meter": {"images": 8, "loss_sum": 1.5, "correct": 3}, "best": None, "resumed": 0,
         "loss_scale": None}


def test_a_state_is_known_by_its_form():
    best = {"epoch": 0, "accuracy": .5, "loss": 1., "top5": 1}
    scale = {"value": .5, "sound": 3, "left_out": 1}
    for stood in (None, STATE, {**STATE, "best": best, "loss_scale": scale}):
        saved = dataclasses.replace(tiny.saved(), state=stood)
        assert checkpoint.Saved.from_json(json.loads(json.dumps(saved.as_json()))) == saved


@pytest.mark.parametrize("name, value", [
    ("data", {}), ("data", {"sha256": 1, "variant": ""}), ("state", {}), ("state", {**STATE, "epoch": "1"}),
    ("state", {**STATE, "step": -1}), ("state", {**STATE, "step": True}), ("state", {**STATE, "meter": {"images": 8}}),
    ("state", {**STATE, "meter": {**STATE["meter"], "loss_sum": float("nan")}}),
    ("state", {**STATE, "best": {"epoch": 0}}), ("state", {**STATE, "loss_scale": {"value": 1}}),
    ("state", {**STATE, "loss_scale": {"value": 0, "sound": 0, "left_out": 0}}), ("workers", 0),
    ("state", {**STATE, "best": {"epoch": 0, "accuracy": 2, "loss": 1, "top5": 1}}), ("wings", 2)])
def test_settings_that_no_run_writes_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        checkpoint.Saved.from_json({**tiny.saved().as_json(), name: value})


def test_settings_that_are_nested_without_end_are_refused():
    with pytest.raises(InputError, match="^x: its settings cannot be used"):
        checkpoint.saved_in("x", {checkpoint.SETTINGS: b"[" * 100_000})


# Of several workers.

def test_one_file_of_two_workers_holds_the_statistics_of_both_and_each_gets_back_its_own(tmp_path):
    programs = [trained(steps=3), trained(steps=3)]
    names = ["1.running_mean", "1.running_var"]
    go_on(programs[1], range(5, 6))
    for name, value in tiny.numbers_of(programs[0].net).items():  # workers have equal weights
        if name not in names:
            programs[1].net._collect_params_with_prefix()[name].set_data(mx.nd.array(value))
    own = [np.concatenate([tiny.numbers_of(program.net)[name] for name in names]) for program in programs]
    assert (own[0] != own[1]).all()
    for rank, program in enumerate(programs):
        program.team = tiny.OneOfTwo(rank, own[1 - rank])
    tiny.save(tmp_path / "x.params", programs[1], tiny.saved())
    assert not (tmp_path / "x.params").exists()  # the first one writes
    tiny.save(tmp_path / "x.params", programs[0], tiny.saved())
    arrays, attachments = params_file.read(tmp_path / "x.params")
    np.testing.assert_allclose(np.concatenate([arrays[name] for name in names]), (own[0] + own[1]) / 2, rtol=1e-6)
    assert {name for name in attachments if name.startswith("running")} == {
        f"running/{worker}/{name}.npy" for worker in (0, 1) for name in names}
    for rank in (0, 1):
        program = trained(steps=1)
        program.team = tiny.OneOfTwo(rank, own[1 - rank])
        tiny.restore(tmp_path / "x.params", program)
        assert (np.concatenate([tiny.numbers_of(program.net)[name] for name in names]) == own[rank]).all()
    with pytest.raises(InputError, match="was written by a run on 2 device.s., this one has 1; resume with 2"):
        tiny.restore(tmp_path / "x.params", trained(steps=1))


# Who else can read them.

def test_gluon_loads_the_file_as_it_stands(saved):
    program = trained()
    plain = tiny.net()
    plain.load_parameters(str(saved))
    assert all((plain._collect_params_with_prefix()[name].data().asnumpy() == value).all()
               for name, value in tiny.numbers_of(program.net).items())


def test_model_load_params_reads_it(tmp_path):
    program = trained(net=model.get_model("atac_resnet20_v2", blocks=1), steps=1)
    tiny.save(tmp_path / "x.params", program, tiny.saved())
    other = model.load_params(model.get_model("atac_resnet20_v2", blocks=1), tmp_path / "x.params")
    assert all((tiny.numbers_of(other)[name] == value).all() for name, value in tiny.numbers_of(program.net).items())


def test_the_archive_is_a_plain_zip_without_a_pickle(saved):
    with zipfile.ZipFile(saved) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        assert json.loads(archive.read("settings.json"))["experiment"]["seed"] == 7
        for name in names - {"settings.json", "weights.sha256"}:
            assert isinstance(np.load(io.BytesIO(archive.read(name)), allow_pickle=False), np.ndarray)
    assert names == {"settings.json", "weights.sha256"} | {
        f"optimizer/{name}.0.npy" for name in ("0.weight", "0.bias", "1.gamma", "1.beta", "5.weight", "5.bias")}


# Runs in float16. A CPU has no dense layer in float16, so the gradients are made up.

def mixed(dtype, contexts=tiny.CPU, steps=3, seed=0, momentum=.9):
    program = tiny.program(tiny.ready(tiny.net(), seed, contexts), contexts, dtype=dtype, momentum=momentum)
    step_in(program, range(steps))
    return program


def step_in(program, seeds):
    for seed in seeds:
        generator = np.random.RandomState(seed)
        for parameter in program.net._collect_params_with_prefix().values():
            if parameter.grad_req != "null":
                gradient = mx.nd.array(generator.normal(0, 1, parameter.shape), dtype=parameter.dtype)
                for own in parameter.list_grad():
                    own[:] = gradient
        program.trainer.allreduce_grads()
        program.trainer.update(8, ignore_stale_grad=True)


@pytest.fixture
def fresh(monkeypatch):
    """Gradients that were filled in by hand count as a backward pass's."""
    monkeypatch.setattr(mx.nd.NDArray, "_fresh_grad", property(lambda array: True, lambda array, value: None))


@pytest.mark.parametrize("contexts", [tiny.CPU, tiny.TWO])
@pytest.mark.parametrize("momentum", [.9, 0.])
def test_a_float16_run_goes_on_to_the_bit(tmp_path, fresh, contexts, momentum):
    program = mixed("float16", contexts, momentum=momentum)
    tiny.save(tmp_path / "x.params", program, tiny.saved())
    kept = everything(program)
    step_in(program, range(10, 12))
    assert everything(program) != kept
    again = mixed("float16", contexts, 1, 5, momentum)
    tiny.restore(tmp_path / "x.params", again)
    assert everything(again) == kept
    step_in(again, range(10, 12))
    assert everything(again) == everything(program)


def masters_of(program):
    """The float32 master weights of the float16 parameters, by name."""
    return {name: master.asnumpy() for name, parameter in program.net._collect_params_with_prefix().items()
            if parameter.grad_req != "null"
            for master in optimizer.optimizer_state(program.trainer, parameter)[1:] if master is not None}


def test_a_float16_runs_file_is_float32_with_its_master_weights_and_goes_both_ways(tmp_path, fresh):
    half, whole = mixed("float16"), mixed("float32")
    for name, program in (("half", half), ("whole", whole)):
        tiny.save(tmp_path / name, program, tiny.saved())
    files = {name: params_file.read(tmp_path / name) for name in ("half", "whole")}
    assert set(files["half"][1]) == set(files["whole"][1])  # the same members
    masters = masters_of(half)
    assert set(masters) == {"0.weight", "0.bias", "5.weight", "5.bias"}
    for name, array in files["half"][0].items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, files["whole"][0][name], atol=1e-3)
    for name, master in masters.items():
        assert (files["half"][0][name] == master).all()
    assert (masters["0.weight"] != masters["0.weight"].astype("float16")).any()

    other = mixed("float32", steps=0, seed=3)
    tiny.restore(tmp_path / "half", other)
    assert (tiny.numbers_of(other.net)["0.weight"] == masters["0.weight"]).all()
    other = mixed("float16", steps=0, seed=3)
    tiny.restore(tmp_path / "whole", other)
    whole_weight = tiny.numbers_of(whole.net)["0.weight"]
    assert (masters_of(other)["0.weight"] == whole_weight).all()
    assert (tiny.numbers_of(other.net)["0.weight"] == whole_weight.astype("float16")).all()
    tiny.load_weights(tmp_path / "half", other.net)
    assert (tiny.numbers_of(other.net)["0.weight"] == masters["0.weight"].astype("float16")).all()


# What is refused.

def test_every_truncation_is_refused(saved, tmp_path):
    content = saved.read_bytes()
    damaged = tmp_path / "cut.params"
    program = trained()
    before = everything(program)
    for end in [0, 1, *range(0, len(content), 97), len(content) - 1]:
        damaged.write_bytes(content[:end])
        try:
            tiny.restore(damaged, program)
            pytest.fail(f"cut to {end} of {len(content)} bytes, it was taken")
        except InputError as error:
            assert str(damaged) in str(error)
    assert everything(program) == before


def test_a_flipped_bit_anywhere_is_refused(saved, tmp_path):
    content = saved.read_bytes()
    damaged = tmp_path / "flipped.params"
    program = trained()
    before = everything(program)
    for place in range(5, len(content), 61):
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1:])
        try:
            tiny.restore(damaged, program)
        except InputError as error:
            assert str(damaged) in str(error)
        else:  # a bit that says nothing: a ZIP header's attributes
            arrays, attachments = params_file.read(damaged)
            whole, members = params_file.read(saved)
            assert attachments == members and all((arrays[name] == whole[name]).all() for name in whole), place
    assert everything(program) == before


def test_another_net_is_refused(saved):
    assert_refused(saved, "is a checkpoint of another net", net=tiny.net(units=5))
    assert_refused(saved, "is a checkpoint of another net", net=tiny.net(batch_norm=False))
    assert_refused(saved, "is a checkpoint of another net", net=tiny.net(classes=11))


def test_another_number_of_devices_is_refused(saved, tmp_path):
    assert_refused(saved, r"was written by a run on 1 device\(s\), this one has 2; resume with 1$", tiny.TWO)
    tiny.save(tmp_path / "two.params", trained(tiny.TWO), tiny.saved())
    assert_refused(tmp_path / "two.params", r"was written by a run on 2 device\(s\), this one has 1")


def test_another_optimizer_is_refused(tmp_path):
    tiny.save(tmp_path / "x.params", trained(momentum=0.), tiny.saved())
    assert_refused(tmp_path / "x.params", r"holds no optimizer/0.weight.0.npy: it is not a checkpoint of a run")


def test_weights_without_settings_are_refused_where_settings_are_needed(tmp_path):
    trained().net.save_parameters(str(tmp_path / "x.params"))
    assert_refused(tmp_path / "x.params", "holds weights only, not a run to resume; start a new run from them with ")
    with pytest.raises(InputError, match="holds weights only"):
        checkpoint.read(tmp_path / "x.params")
    assert checkpoint.read(tmp_path / "x.params", required=False) is None


def test_a_file_saved_without_an_optimizer_has_settings_but_is_not_gone_on_from(tmp_path):
    tiny.save(tmp_path / "x.params", trained().net, tiny.saved(seed=1))
    assert checkpoint.read(tmp_path / "x.params").experiment.seed == 1
    assert_refused(tmp_path / "x.params", "holds no optimizer/")


def test_a_missing_file_is_one_sentence(tmp_path):
    assert_refused(tmp_path / "none.params", "cannot be read: No such file or directory")
    assert_refused(tmp_path, "cannot be read: Is a directory")


@pytest.mark.parametrize("settings, sentence", [
    (b"{", "its settings cannot be used"), (b"[1]", "its settings cannot be used"),
    (b"\xff", "its settings cannot be used"), (b"{}", "its format is None, and this version reads 2"),
    (b'{"format": 3}', "its format is 3, and this version reads 2"), (b'{"format": 2}', "experiment is missing"),
    (b'{"format": 1}', "it has no 'model'")])
def test_settings_that_cannot_be_used_are_refused(saved, settings, sentence):
    rewritten(saved, lambda attachments: attachments.update({"settings.json": settings}))
    assert_refused(saved, sentence)
    with pytest.raises(InputError, match=sentence):
        checkpoint.read(saved, required=False)


def npy(value, **how):
    buffer = io.BytesIO()
    np.save(buffer, value, **how)
    return buffer.getvalue()


def huge():
    """A header that promises more numbers than there is memory."""
    return npy(np.zeros(4, "float32")).replace(b"(4,)", b"(%d,)" % 10 ** 12).replace(b" " * 12 + b"\n", b"\n")


@pytest.mark.parametrize("member", [
    b"", b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18, b"cos\nsystem\n(S'true'\ntR.", b"\x93NUMPY\x01\0\x04\0{{{{",
    npy(np.array([None, 1], object), allow_pickle=True), npy(np.zeros(4, "float32"))[:-1], huge(),
    npy(np.array(["a", "b", "c", "d"])), npy(np.zeros(5, "float32")), npy(np.zeros((4, 1), "float32")),
    npy(np.zeros(4, "complex64")), npy(np.zeros(4, "float32")) + b"x", npy(np.full(4, np.nan, "float32")),
    npy(np.full(4, np.inf, "float32")),
    npy(np.zeros(4, [("a" * 15_000, "float32")]))])  # NumPy answers this header with several lines
def test_a_crafted_member_is_refused_and_runs_nothing(tmp_path, member):
    path = tmp_path / "x.params"
    for contexts, name in ((tiny.CPU, "optimizer/1.gamma.0.npy"), (tiny.TWO, "running/1/1.running_var.npy")):
        tiny.save(path, trained(contexts), tiny.saved())
        rewritten(path, lambda attachments: attachments.update({name: member}))  # noqa: B023
        assert_refused(path, "use another checkpoint", contexts)


def test_weights_and_variances_that_cannot_be_are_refused(saved, tmp_path):
    arrays, attachments = params_file.read(saved)
    attachments = {name: member for name, member in attachments.items() if name != params_file.DIGEST}
    for name, value in (("0.weight", np.nan), ("1.gamma", np.inf), ("1.running_mean", -np.inf), ("1.running_var", -1)):
        wrong = {**arrays, name: np.full_like(arrays[name], value)}
        params_file.write(tmp_path / "x.params", wrong, attachments)
        assert_refused(tmp_path / "x.params", f"holds impossible numbers in {name} ")


# Writing.

def test_weights_that_are_no_numbers_are_not_written(saved):
    program = trained()
    before = saved.read_bytes()
    for name in ("0.weight", "1.running_var"):
        parameter = program.net._collect_params_with_prefix()[name]
        kept = parameter.data().asnumpy()
        for value in (np.nan, np.inf):
            parameter.set_data(mx.nd.array(np.where(np.arange(kept.size).reshape(kept.shape) == 1, value, kept)))
            with pytest.raises(Diverged, match=f"^{name} is no longer finite$"):
                tiny.save(saved, program, tiny.saved())
        parameter.set_data(mx.nd.array(kept))
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_write_that_breaks_off_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    program = trained()
    with pytest.raises(InputError, match="cannot be written: .*No space left on device"):
        tiny.save(saved, program, tiny.saved())
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
