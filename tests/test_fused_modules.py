"""Nets with a module on every residual branch, by the fused operators; inference and resuming of nets of the zoo."""
import fused_nets
import mxnet as mx
import numpy as np
import pytest
import tiny
from fused_nets import STATIC
from test_fused import WHOLE, assert_parity, inputs, started

from backend.gluon import fusable, fused, inference, placement
from model import activation, get_model, refine
from model.cifar_resnet import CIFARResNetV2
from ops import nag

pytestmark = pytest.mark.usefixtures("fused_operators")

MODULES = list(fusable.REFINEMENTS)
NETS = [("xunit_resnet20_v2", {}), ("senet_resnet20_v2", {}), ("localsenet_resnet20_v2", {}),
        *(("genet_resnet20_v2", {"variant": variant}) for variant in ("theta_minus", "theta", "theta_plus"))]


def branched(module, unit=activation.ReLU, blocks=1, size=32, **settings):
    """A host of one block a stage with the module on every branch."""
    def refinement(channels, size):
        return module(channels, size, **settings)
    return CIFARResNetV2(blocks, 7, unit, refinement, input_size=size)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("images, size, blocks, mode", [(5, 32, 1, None), (33, 12, 1, {}), (6, 16, 2, STATIC)])
def test_every_module(module, images, size, blocks, mode):
    # Each value of a small batch moves theta's BatchNorm over the images, which multiplies what is rounded before it.
    assert_parity(lambda: branched(module, blocks=blocks, size=size), images, size, mode, tolerance=2e-5)


@pytest.mark.parametrize("module, settings", [
    (refine.SE, {"reduction": 1}), (refine.SE, {"reduction": 2}), (refine.GEThetaPlus, {"reduction": 1}),
    (refine.LocalSE, {"reduction": 4}), (refine.LocalSE, {"inner_relu": False})])
def test_settings_of_a_module(module, settings):
    assert_parity(lambda: branched(module, size=16, **settings), 9, 16, tolerance=2e-5)


@pytest.mark.parametrize("module", [refine.SE, refine.LocalSE])
@pytest.mark.parametrize("size, images", [(13, 3), (5, 33), (1, 33)])
def test_other_sizes(module, size, images):
    assert_parity(lambda: branched(module), images, size, tolerance=2e-5)


def test_a_module_behind_another_unit():
    assert_parity(lambda: branched(refine.SE, activation.ATAC), 4, 16)


def test_nan_stays_with_its_image():
    for module in (refine.SE, refine.GEThetaMinus, refine.GETheta):
        net = started(lambda: branched(module, size=16))  # noqa: B023
        x = inputs(3, 16, 7)[0]
        x[1, 0, 8, 8] = np.nan
        answer = fused.fuse(net, "on")[0](mx.nd.array(x)).asnumpy()
        assert np.isnan(answer[1]).all() and np.isfinite(answer[[0, 2]]).all()


# The nets of the zoo: inference, and training that stops.

@pytest.mark.parametrize("name, settings", NETS)
@pytest.mark.parametrize("images", [1, 20])
def test_inference_is_one_operator(name, settings, images):
    net = started(lambda: get_model(name, blocks=1, **settings))
    x = mx.nd.array(inputs(images, 32, 10)[0])
    made, sentence = inference.optimize(net, x)
    assert sentence.startswith("inference with fused C++ operators for the whole net: within")
    assert fused_nets.distance(made(x).asnumpy(), net(x).asnumpy()) < 1e-5


def trained(program, steps):
    batches = [(.05, inputs(8, 32, 10, seed)[0], np.random.RandomState(seed).randint(0, 10, 8)) for seed in steps]
    return tiny.train(program, batches).loss


def ready(name, settings, wanted):
    net = get_model(name, blocks=1, **settings)
    placement.initialize(net, 0, tiny.CPU)
    forward, sentence = fused.fuse(net, wanted)
    assert wanted == "off" or sentence == WHOLE
    placement.set_mode(forward, "hybrid")
    return tiny.program(net, forward=forward, update_all=nag.update_operator(wanted), wd=1e-4)


@pytest.mark.parametrize("name, settings", NETS)
def test_a_run_that_stops_goes_on_to_the_same_bits_and_in_plain_gluon_alike(name, settings, tmp_path):
    program = ready(name, settings, "on")
    trained(program, range(2))
    tiny.save(tmp_path / "two.params", program, tiny.saved())
    loss = trained(program, range(2, 4))
    found = {}
    for wanted in ("on", "off"):
        again = ready(name, settings, wanted)
        tiny.restore(tmp_path / "two.params", again)
        found[wanted] = trained(again, range(2, 4)), tiny.numbers_of(again.net)
    expected = tiny.numbers_of(program.net)
    assert found["on"][0] == loss
    assert all(value.tobytes() == expected[key].tobytes() for key, value in found["on"][1].items())
    assert found["off"][0] == pytest.approx(loss, rel=1e-3)
