"""visualize.py: what it draws from the weights and the sample that ship, in both backends, and what does not fit."""
import warnings
import xml.etree.ElementTree as xml
from pathlib import Path
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
import tiny
from PIL import Image

import model
import visualize
from backend.gluon.program import Scorer
from engine import gates, runlog
from engine import visualize as engine_visualize
from engine.data import sets
from engine.figures import confusion, curves, pictures
from engine.figures import gates as drawings
from model.registry import CIFAR, IMAGENET
from support.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ["--gpus", "", "--data-dir", str(ROOT / "data" / "cifar10-sample")]
ATAC = ["--pretrained", "atac_resnet20_v2_b1_cifar10", *SAMPLE]
RUNS = ROOT / "results" / "runs"
IMAGES = np.random.RandomState(0).randn(3, 3, 32, 32).astype("float32")


def run(*arguments, folder):
    return tiny.call(visualize.main, *arguments, folder=folder, plot=True)


def drawn(path):
    """The picture in a file, as RGB."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(autouse=True)
def no_warnings():
    """Of a layout that does not fit, or a sign that a font lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


# What it draws.

@pytest.mark.parametrize("words, width", [
    (["gates", *ATAC, "--beside", "seactivation_resnet20_v2_b1_cifar10", "--image", "1016"], 1500),
    (["gates", *ATAC, "--picture", "cat.png", "--channel", "15"], 1500),
    (["predictions", *ATAC, "--count", "9"], 1400), (["predictions", *ATAC, "--count", "2", "--wrong"], 500),
    (["statistics", *ATAC, "--count", "300"], 1400),
    (["statistics", *SAMPLE, "--pretrained", "localsenet_resnet20_v2_b1_cifar10", "--count", "1"], 1400)])
def test_a_drawing(tmp_path, words, width):
    Image.fromarray(np.arange(60 * 50 * 3, dtype=np.uint8).reshape(60, 50, 3)).save(tmp_path / "cat.png")
    result = run(*words, folder=tmp_path)
    assert result.status == 0 and result.out == f"{words[0]}: {words[0]}.png\n", result.err
    assert drawn(tmp_path / f"{words[0]}.png").shape[1] >= width
    assert {path.name for path in tmp_path.iterdir()} == {"cat.png", f"{words[0]}.png"}


def test_the_drawing_of_the_unit_that_ships_is_what_the_command_draws(tmp_path):
    assert run("unit", folder=tmp_path).status == 0
    content = (tmp_path / "atac-unit.svg").read_text(encoding="utf-8")
    assert content == (ROOT / "docs" / "images" / "atac-unit.svg").read_text(encoding="utf-8")
    words = [element.text for element in xml.fromstring(content).iter("{http://www.w3.org/2000/svg}text")]
    assert [word for word in words if word in ("BN", "ReLU", "sigmoid", "conv 1×1")] == [
        "conv 1×1", "BN", "ReLU", "conv 1×1", "BN", "sigmoid"]


def test_curves_of_runs(tmp_path):
    runs = [RUNS / f"cifar10-b1-{unit}_e15_s0_2ec32175" for unit in ("atac", "relu")]
    assert run("curves", *runs, folder=tmp_path).status == 0
    assert run("curves", *runs, "--labels", "ATAC,海龟", "-o", "named.svg", folder=tmp_path).status == 0
    assert run("curves", runs[0] / "metrics.jsonl", "-o", "one.pdf", folder=tmp_path).status == 0
    assert drawn(tmp_path / "curves.png").shape[1] > 1400
    assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF") and b"<svg" in (tmp_path / "named.svg").read_bytes()


def test_many_curves_leave_room_for_the_axes(tmp_path):
    records = runlog.read_metrics(RUNS / "cifar10-b1-atac_e15_s0_2ec32175" / "metrics.jsonl")
    curves.draw({f"a run with a long name, number {number}": records for number in range(25)}, tmp_path / "x.png")
    assert drawn(tmp_path / "x.png").shape[0] > 1000


def test_names_of_any_script_and_length_fit(tmp_path):
    names = ["海龟", "a$b$", "x" * 200] + [f"class {number}" for number in range(97)]
    confusion.draw_confusion(np.eye(100, dtype=int), names, tmp_path / "x.png", "title " * 40)
    pictures.draw_predictions([(np.zeros((8, 8, 3)), name, "" if place else "dog", .5)
                               for place, name in enumerate(names[:10])], tmp_path / "y.png", "many")
    assert {path.name for path in tmp_path.iterdir()} == {"x.png", "y.png"}


# Gates.

def a_net(name, **arguments):
    net = tiny.ready(model.get_model(name, **arguments), 1, mode="hybrid")
    net(mx.nd.array(IMAGES[:1]))
    return net


def test_the_gates_are_what_multiplies_the_input_of_a_unit():
    net = a_net("atac_resnet20_v2", blocks=1)
    found = Scorer(net, tiny.CPU).gates(IMAGES)
    assert [gates.site(path) for path in found] == ["s1b1.act1", "s1b1.act2", "s2b1.act1", "s2b1.act2", "s3b1.act1",
                                                    "s3b1.act2", "head"]
    assert [values.shape for values in found.values()] == [
        *[(3, 16, 32, 32)] * 3, *[(3, 32, 16, 16)] * 2, *[(3, 64, 8, 8)] * 2]
    unit = net.features[2][0].act1
    x = net.features[2][0].bn1(net.features[1](net.features[0](mx.nd.array(IMAGES))))
    np.testing.assert_allclose(found["features.2.0.act1"] * x.asnumpy(), unit(x).asnumpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, shape, sites", [
    ("seactivation_resnet20_v2", (3, 16, 1, 1), 7), ("localsenet_resnet20_v2", (3, 16, 32, 32), 3),
    ("senet_resnet20_v2", (3, 16, 1, 1), 3), ("xunit_resnet20_v2", (3, 16, 32, 32), 7), ("resnet20_v2", None, 0),
    ("genet_resnet20_v2", (3, 16, 1, 1), 3)])
def test_both_backends_catch_the_same_gates(name, shape, sites):
    net = a_net(name, blocks=1)
    found = Scorer(net, tiny.CPU).gates(IMAGES)
    assert len(found) == sites and (not sites or next(iter(found.values())).shape == shape)
    torch = pytest.importorskip("torch")
    from backend import torch as other_backend
    other = other_backend.scorer(net, [torch.device("cpu")], None)[0].gates(IMAGES)
    assert list(other) == list(found)
    for path, values in found.items():
        np.testing.assert_allclose(other[path], values, rtol=1e-4, atol=1e-5)


def test_gates_without_mxnet(tmp_path):
    """The same figure to the byte."""
    pytest.importorskip("torch")
    from test_torch_nets import PROGRAM, without_mxnet
    words = ["gates", *ATAC, "--beside", "seactivation_resnet20_v2_b1_cifar10", "-o"]
    done = without_mxnet(PROGRAM, "visualize.py", *words, tmp_path / "without.png")
    assert done.returncode == 0, done.stderr
    assert run(*words, tmp_path / "with.png", "--backend", "torch", folder=tmp_path).status == 0
    assert (tmp_path / "without.png").read_bytes() == (tmp_path / "with.png").read_bytes()


def test_sites_have_short_names():
    assert gates.site("layer3.5.act2") == "s3b6.act2" and gates.site("features.3.1.refine") == "s2b2.refine"
    assert gates.site("features.6") == "head" and gates.site("block.act") == "block.act"


def test_the_variance_is_what_its_parts_add_up_to():
    values = np.random.RandomState(1).rand(40, 6, 5, 5) * np.linspace(.2, 1, 6).reshape(6, 1, 1)
    summary, = gates.summaries([{"features.6": part} for part in (values[:7], values[7:])])
    assert summary.site == "head" and summary.mean == pytest.approx(values.mean())
    assert summary.channels + summary.images + summary.positions == pytest.approx(values.var())
    assert summary.channels == pytest.approx(values.mean(axis=(0, 2, 3)).var())
    np.testing.assert_allclose(summary.quantiles, np.quantile(values, gates.LEVELS), atol=.01)
    pooled, = gates.summaries([{"head": values.mean(axis=(2, 3), keepdims=True)}])
    assert pooled.positions == pytest.approx(0, abs=1e-12) and pooled.images == pytest.approx(summary.images)


def test_one_value_per_channel_is_one_colour(tmp_path):
    """SEActivation's maps beside ATAC's: the argument of Figure 3."""
    maps = np.random.RandomState(2).rand(4, 8, 8)
    assert gates.liveliest(np.stack([maps[0], 3 * maps[1], maps[2]])) == 1
    drawings.draw_gates(np.zeros((8, 8, 3)), [("local", [("head", maps, 0)]),
                                              ("global", [("head", maps.mean(axis=(1, 2), keepdims=True), 0)])],
                        tmp_path / "x.png")
    picture = drawn(tmp_path / "x.png")
    halves = [len(set(map(bytes, half.reshape(-1, 3)))) for half in np.array_split(picture, 2)]
    assert halves[0] > halves[1]


def test_the_sites_of_a_deep_net_are_wrapped(tmp_path):
    layers = [(f"site {number}", np.random.RandomState(number).rand(2, 4, 4), 1) for number in range(23)]
    drawings.draw_gates(np.zeros((8, 8, 3)), [("deep", layers), ("shallow", layers[:3])], tmp_path / "x.png")
    height, width, _ = drawn(tmp_path / "x.png").shape
    assert width < 1600 and height > width / 2


# What does not fit.

@pytest.mark.parametrize("words, status, said", [
    ([], 2, "the following arguments are required: WHAT"), (["draw"], 2, "invalid choice: 'draw'"),
    (["gates", *SAMPLE], 2, "one of these is required: --params or --pretrained"),
    (["gates", *SAMPLE, "--pretrained", "nothing"], 1, "no pretrained weights called 'nothing'"),
    (["gates", *ATAC, "--beside", "nothing"], 1, "no pretrained weights called 'nothing'"),
    (["gates", *ATAC, "--beside", "resnet20_v2_b1_cifar10"], 1, "resnet20_v2, b = 1 has no unit with gates"),
    (["gates", *ATAC, "--beside", "atac_resnet50_v1b_official"], 1, "atac_resnet50_v1b_official"),
    (["gates", *ATAC, "--image", "1017"], 1, "--image 1017: there are 1,017 test images, numbered from 0"),
    (["gates", *ATAC, "--image", "-1"], 2, "-1 is below 0"),
    (["gates", *ATAC, "--image", "1", "--picture", "x"], 2, "not allowed with argument"),
    (["gates", *ATAC, "--picture", "none.png"], 1, "none.png: "),
    (["gates", *ATAC, "--channel", "16"], 1, "--channel 16: s1b1.act1 has 16 channels, numbered from 0"),
    (["gates", *ATAC, "-o", "x.gif"], 2, "'x.gif' does not end in .png, .pdf or .svg"),
    (["gates", *ATAC, "-o", "none/x.png"], 2, "--output none/x.png: that folder does not exist"),
    (["statistics", *SAMPLE, "--pretrained", "nin_resnet20_v2_b1_cifar10"], 1, "has no unit with gates"),
    (["statistics", *ATAC, "--count", "0"], 2, "0 is below 1"),
    (["predictions", *ATAC, "--count", "401"], 2, "401 is above 400"),
    (["predictions", *ATAC[:4], "--data-dir", "nothing"], 1, "--data-dir nothing: that folder does not exist"),
    (["predictions", *ATAC, "-o", "/proc/x.png"], 1, "/proc/x.png cannot be written: "),
    (["predictions", *ATAC, "--dataset", "cifar100"], 1, "was trained with --dataset cifar10, not cifar100"),
    (["unit", "-o", "x.png"], 2, "--output x.png: the drawing of the unit is an .svg"),
    (["curves"], 2, "required: RUN"), (["curves", "nothing"], 1, "nothing cannot be read: No such file or directory"),
    (["curves", RUNS / "cifar10-b1-atac_e15_s0_2ec32175", "--labels", "a,b"], 2, "--labels has 2 names for 1 runs"),
    (["curves", *[RUNS / "cifar10-b1-atac_e15_s0_2ec32175"] * 2], 1, "two runs are called cifar10-b1-atac_e15"),
    (["curves", "empty"], 1, "has no epoch yet; wait for the first one")])
def test_what_cannot_be_drawn_is_one_sentence(tmp_path, words, status, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").write_text("")
    line = tiny.one_sentence(run(*words, folder=tmp_path), status, said)
    assert line.startswith("visualize.py")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_numbers_that_are_not_finite_are_one_sentence(tmp_path):
    net = a_net("atac_resnet20_v2", blocks=1, classes=10)
    net.output.weight.set_data(mx.nd.array(3e38 * (-1.) ** np.arange(10 * 64).reshape(10, 64)))  # the logits overflow
    net.save_parameters(str(tmp_path / "own.params"))
    own = ["--params", "own.params", "--model", "atac_resnet20_v2", "--blocks", "1", "--dataset", "cifar10", *SAMPLE]
    tiny.one_sentence(run("predictions", *own, folder=tmp_path), 1, "own.params: the net answers with numbers that")
    subject = SimpleNamespace(file="own.params", model="atac_resnet20_v2", arguments={"blocks": 1})
    scorer = SimpleNamespace(gates=lambda images: {"features.6": np.full((1, 4, 2, 2), np.nan)})
    with pytest.raises(InputError, match="own.params: the gates of head are not finite; use another checkpoint"):
        engine_visualize.gates([(subject, scorer)], None, "x", None, tmp_path / "x.png")


def test_a_net_that_is_never_wrong_has_no_wrong_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_visualize, "chances", lambda logits: np.eye(10)[np.zeros(len(logits), int)])
    folder = tmp_path / "data"
    tiny.cifar10(folder, test=10)
    content = bytearray((folder / "test_batch.bin").read_bytes())
    content[::3073] = bytes(10)  # every label is 0
    (folder / "test_batch.bin").write_bytes(content)
    result = run("predictions", *ATAC[:2], "--gpus", "", "--data-dir", folder, "--wrong", folder=tmp_path)
    tiny.one_sentence(result, 1, "the net answers 10 test images right and none wrong; leave --wrong out")


@pytest.mark.parametrize("host", [CIFAR, IMAGENET])
def test_a_picture_comes_back_from_a_nets_input(host):
    options = SimpleNamespace(data_dir=None, label_mode=None, mirror=None, input_size=None, crop_ratio=None)
    data = sets.of("cifar10" if host is CIFAR else "imagenet", options, None)
    data.complete(host.name, {}, host.image_size)
    picture = np.random.RandomState(3).randint(0, 256, (host.image_size, host.image_size, 3)).astype(np.uint8)
    if host is IMAGENET:
        data.crop_ratio = 1.
    shown = data.visible(data.pixels(picture)[0])
    np.testing.assert_allclose(shown, picture[..., ::-1] / 255, atol=1e-5)
