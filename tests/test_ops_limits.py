"""The operators where they end: sizes, memory, oneDNN's layout, many readers, locales, compilers."""
import subprocess

import fused_nets
import mxnet as mx
import numpy as np
import pytest
import test_ops
import tiny
from mxnet import autograd
from mxnet.gluon import HybridBlock

from backend.gluon import fused, optimizer
from model import activation
from model.cifar_resnet import CIFARResNetV2
from ops import build, nag
from support.errors import InputError

pytestmark = pytest.mark.usefixtures("fused_operators")


# Sizes.

def test_an_inner_layer_wider_than_the_channels_is_refused():
    """The backward pass has room for as many numbers as there are channels."""
    gate = [(32, 16, 1, 1)] + [(32,)] * 4 + [(16, 32, 1, 1)] + [(16,)] * 4
    for unit in ("atac 1", "nin", "seactivation 1"):
        with pytest.raises(mx.MXNetError, match=r"must have the shape .* with C = 16, got \(32, 16, 1, 1\)"):
            test_ops.call("atac_unit", [(2, 16, 5, 5)] + gate, unit=unit)


def shapes_of_unit(unit, channels, inner, images=1):
    shapes = [(images, channels, 1, 1), (inner, channels, 1, 1)] + [(inner,)] * 4
    shapes += [(channels, inner, 1, 1)] + [(channels,)] * 4
    names = [f"array{number}" for number in range(len(shapes))]
    symbol = mx.sym.atac_unit(*map(mx.sym.var, names), unit=unit)
    return symbol.infer_shape_partial(**dict(zip(names, shapes)))[1]


@pytest.mark.parametrize("unit, channels, inner, images, said", [
    ("nin", 65536, 32769, 1, "an array has 2^31 elements or more: (32769, 65536, 1, 1)"),
    ("nin", 65552, 16, 1, "x has more than 65536 channels"),
    ("seactivation 1", 32, 32, 1 << 26, "an array has 2^31 elements or more: (67108864, 32, 1, 1)")])
def test_what_cannot_be_counted_is_refused(unit, channels, inner, images, said):
    """Shapes alone are asked for: the arrays would not fit this machine."""
    with pytest.raises(mx.MXNetError) as caught:
        shapes_of_unit(unit, channels, inner, images)
    assert said in str(caught.value)


def test_the_error_of_a_weight_does_not_grow_with_the_batch():
    """A shortcut's weight has the plainest of gradients: a sum over all pixels of all images."""
    found = []
    for images in (32, 2048):
        generator = np.random.RandomState(0)
        x, dy = (generator.normal(1, 1, (images, 16, 8, 8)).astype("float32") for _ in range(2))
        arrays = [test_ops.blocked(x)] + [mx.nd.ones(16)] * 4 + [mx.nd.zeros((16, 16, 3, 3))]
        arrays += [mx.nd.ones(16)] * 4 + [mx.nd.zeros((16, 16, 3, 3)), mx.nd.zeros((16, 16, 1, 1))]
        arrays[-1].attach_grad()
        with autograd.record():
            y = mx.nd.atac_block(*arrays, unit1="relu", unit2="relu", downsample="1")
        y.backward(test_ops.blocked(dy))
        expected = np.einsum("nihw,nohw->oi", x.astype("float64"), dy.astype("float64"))
        error = (arrays[-1].grad.asnumpy()[:, :, 0, 0] - expected) / expected
        found.append(np.sqrt(np.mean(error ** 2)))
    assert found[1] < 2 * found[0] < 1e-6


# What an error says.

def test_an_error_does_not_repeat_the_ones_before():
    for said, before in (("there is no unit 'first'", "second"), ("there is no unit 'second'", "first")):
        with pytest.raises(mx.MXNetError) as caught:
            test_ops.call("atac_unit", [(1, 1, 1, 1)], unit=said.split("'")[1])
        assert said in str(caught.value) and before not in str(caught.value)


MEMORY = """
import resource, sys
sys.path.insert(0, "tests")
from support import runtime
runtime.prepare()
import mxnet as mx
import test_ops
from ops import loader
loader.load()
def call(side):
    return test_ops.call("atac_block", [(1, 1, side, side, 16)] + test_ops.BLOCK + [(16, 16, 1, 1)], unit1="relu",
                         unit2="relu", stride="2", downsample="1")
call(8)
x = mx.nd.zeros((1, 1, 1024, 1024, 16))  # 64 MiB, of which a thread needs a copy; the outputs have 32 together
x.wait_to_read()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (110 << 20), -1))
try:
    call(1024)
except mx.MXNetError as error:
    print(str(error).strip().splitlines()[-1])
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(call(8).shape)
"""


def test_too_little_memory_in_a_parallel_loop_is_a_sentence():
    done = fused_nets.run(MEMORY, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "there is not enough memory for a fused operator" in done.stdout
    assert done.stdout.endswith("(1, 1, 4, 4, 16)\n")


# oneDNN's layout.

def test_an_update_after_inference_reaches_every_weight():
    """Inference of a plain net leaves its weights in oneDNN's layout, of which MXNet hands operators a copy."""
    found = []
    for update_all in (nag.update_all, None):
        net = tiny.ready(CIFARResNetV2(1, 10, activation.ATAC))
        trainer = optimizer.make_trainer(net, tiny.recipe(), update_all=update_all)
        x = mx.nd.array(np.random.RandomState(0).normal(0, 1, (4, 3, 16, 16)))
        net(x).wait_to_read()
        with autograd.record():
            y = (net(x) ** 2).sum()
        y.backward()
        trainer.step(4)
        found.append(tiny.numbers_of(net))
    for name, value in found[0].items():
        assert value.tobytes() == found[1][name].tobytes(), name


def test_the_operator_itself_refuses_an_array_in_onednns_layout(monkeypatch):
    monkeypatch.setattr(nag, "_restore_layout", lambda weight: None)
    weight = mx.nd.ones((16, 16, 3, 3))
    mx.nd.Convolution(mx.nd.ones((1, 16, 8, 8)), weight, kernel=(3, 3), num_filter=16, no_bias=True).wait_to_read()
    mx.nd.waitall()
    with pytest.raises(mx.MXNetError, match="MKLDNN"):
        nag.update_all([weight], [mx.nd.ones(weight.shape)], [mx.nd.zeros(weight.shape)], .1, .9, [0.], 1.)
        mx.nd.waitall()
    assert (weight.asnumpy() == 1).all()


# Arrays with many readers.

class Readers(HybridBlock):
    """The sum of ten times the same unit of one array: the unit's parameters have ten readers too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.unit = activation.ATAC(4)

    def hybrid_forward(self, F, x):
        x = 2 * x
        return F.add_n(*(self.unit(x) * (number + 1) for number in range(10)))


@pytest.mark.parametrize("mode", [None, {}, fused_nets.STATIC])
def test_gradients_of_arrays_with_many_readers(mode):
    net = Readers()
    net.initialize()
    forward, _ = fused.fuse(net, "on")
    if mode is not None:
        forward.hybridize(**mode)
    double = fused_nets.in_float64(Readers, net)
    x, dy = (np.random.RandomState(seed).normal(0, 1, (3, 4, 5, 5)).astype("float32") for seed in (0, 1))
    _, dx, gradients, _ = fused_nets.step(net, forward, x, dy)
    _, right, expected, _ = fused_nets.step(double, double, x.astype("float64"), dy.astype("float64"))
    assert fused_nets.distance(dx, right) < 1e-5
    assert max(fused_nets.distances(gradients, expected).values()) < 1e-4


LATE = """
import sys
from support import runtime
runtime.prepare()
import mxnet as mx
x = mx.nd.ones(1)
x.attach_grad()
with mx.autograd.record():
    y = x * x
y.backward()
from model import fuse, get_model
net = get_model("atac_resnet20_v2", blocks=1)
net.initialize()
print(fuse(net)[1])
"""


def test_gradients_found_before_the_operators_came_are_noticed():
    done = fused_nets.run(LATE, MXNET_EXEC_INPLACE_GRAD_SUM_CAP=None)
    assert done.stdout.startswith("plain Gluon operators: this process computed gradients before "), done.stderr[-2000:]


# Locales and compilers.

LOCALE = """
import locale, sys
sys.path.insert(0, "tests")
from support import runtime
runtime.prepare()
locale.setlocale(locale.LC_NUMERIC, "de_DE.UTF-8")
assert locale.localeconv()["decimal_point"] == ","
from ops import loader
loader.load()
import test_ops
print(test_ops.call("atac_unit", [(1, 1, 1, 1)], unit="leakyrelu 0.5", epsilon="0.25").shape)
"""


def test_numbers_are_read_alike_in_every_locale(tmp_path):
    try:
        made = subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8"],
                              capture_output=True)
    except FileNotFoundError:
        made = None
    if made is None or made.returncode > 1:  # 1: warnings
        pytest.skip("there is no locale with a decimal comma, and none can be made")
    done = fused_nets.run(LOCALE, LOCPATH=str(tmp_path))
    assert done.stdout == "(1, 1, 1, 1)\n", done.stderr[-2000:]


@pytest.mark.skipif(build.compiler() is None, reason="there is no C++ compiler")
def test_other_compilers_than_gcc_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BUILT", tmp_path)
    monkeypatch.setenv("CXX", "g++ -Wfatal-errors -D__clang__")
    with pytest.raises(InputError, match="the operators need GCC 9 or newer"):
        build.build()


# Parts, without MXNet.

@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The program tests/ops_parts.cc, compiled with the sanitizers."""
    if build.compiler() is None or test_ops.sanitizers() is None:
        pytest.skip("there is no compiler with sanitizers")
    program = tmp_path_factory.mktemp("parts") / "parts"
    flags = [flag for flag in build.SANITIZED if flag not in ("-shared", "-fPIC")]
    done = subprocess.run([*build.compiler(), *flags, "-o", program, fused_nets.ROOT / "tests" / "ops_parts.cc"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def run(*command):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300,
                          env={"OMP_NUM_THREADS": "3", "ASAN_OPTIONS": "allocator_may_return_null=1"})


def test_parts_in_situations_of_their_own(parts):
    done = run(parts)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_the_sanitized_build_sees_a_write_behind_an_array(parts):
    done = run(parts, "overflow")
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr and done.stdout == ""
