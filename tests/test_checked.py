"""Arrays of another rank or size are refused in a sentence, in every way a net is called, before MXNet meets them."""
import mxnet as mx
import pytest

from backend.gluon import inference
from model import AugmentedConv, ResNet50, fuse, get_model, image_size, list_models
from support.errors import InputError


def small(name):
    return {"blocks": 1} if "resnet20" in name else {}


def inferred(net, side):
    """Whether MXNet finds the shapes of all arrays in the net for images of this side."""
    try:
        return net(mx.sym.var("data")).infer_shape(data=(2, 3, side, side))[1] is not None
    except mx.MXNetError:
        return False


@pytest.mark.parametrize("name", list_models())
def test_a_net_takes_the_sizes_that_mxnet_can_compute_and_no_others(name):
    net = get_model(name, **small(name))
    for side in (image_size(name, {}), 33, 60, 64):
        if inferred(net, side):
            net.takes.check(mx.nd.zeros((2, 3, side, side)))
            if net.takes.side is None:
                net.takes.check(mx.nd.zeros((2, 3, side, 2 * side)))
        else:
            with pytest.raises(InputError, match=r"this net was built for|multiples of"):
                net(mx.nd.zeros((2, 3, side, side)))
    for shape in ((3, 32, 32), (1, 1, 32, 32), (1, 3), (1, 3, 8, 8, 8)):
        with pytest.raises(InputError, match=r"this net takes arrays \(N, 3, [HS], [WS]\), got one of shape"):
            net(mx.nd.zeros(shape))


@pytest.mark.parametrize("name, side, given, sentence", [
    ("aa_resnet50_v1b", 224, 64, "this net was built for 224 x 224; get_model(..., input_size=64) (got an array of "
                                 "shape (1, 3, 64, 64))"),
    ("ge_resnet50_v1", 64, 65, "this net was built for 64 x 64; resize the images (got an array of shape "
                               "(1, 3, 65, 65))"),
    ("fa_resnet50_v1b", None, 100, "this net takes images whose sides are multiples of 32, got an array of "
                                   "shape (1, 3, 100, 100); resize the images")])
def test_the_sentence_says_what_to_do(name, side, given, sentence):
    net = get_model(name, **({"input_size": side} if side else {}))
    with pytest.raises(InputError) as caught:
        net(mx.nd.zeros((1, 3, given, given)))
    assert str(caught.value) == sentence


def test_an_image_without_a_batch_is_told_how_to_become_one():
    with pytest.raises(InputError, match=r"got one of shape \(3, 32, 32\); x.expand_dims\(0\) makes one image a batch"):
        get_model("resnet20_v2", blocks=1)(mx.nd.zeros((3, 32, 32)))


def hybridized(net, x):
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def in_training(forward):
    def call(x):
        with mx.autograd.record():
            return forward(x)
    return call


FORMS = {
    "imperative": lambda net, x: net,
    "hybridized": hybridized,
    "recorded": lambda net, x: in_training(net),
    "fused": lambda net, x: fuse(net)[0],
    "fused, recorded": lambda net, x: in_training(fuse(net)[0]),
    "optimized": lambda net, x: inference.optimize(net, x)[0],
    "folded": lambda net, x: inference.fold(net),
}


@pytest.mark.usefixtures("fused_operators")
@pytest.mark.parametrize("name", ["genet_resnet20_v2", "atac_resnet20_v2"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_net_refuses_what_the_net_refuses(form, name):
    net = get_model(name, blocks=1)
    net.initialize()
    x = mx.nd.random.normal(shape=(2, 3, 32, 32))
    forward = FORMS[form](net, x)
    wrong = [(3, 32, 32), (2, 4, 32, 32)] + [(2, 3, 64, 64), (2, 3, 32, 16)] * (name == "genet_resnet20_v2")
    for _ in range(2):  # a hybridized net compiles itself in the first call
        for shape in wrong:
            with pytest.raises(InputError, match="this net"):
                forward(mx.nd.zeros(shape))
        assert forward(x).shape == (2, 10)


def test_an_example_of_another_size_is_refused():
    net = get_model("genet_resnet20_v2", blocks=1)
    net.initialize()
    with pytest.raises(InputError, match=r"built for 32 x 32; get_model\(..., input_size=64\)"):
        inference.optimize(net, mx.nd.zeros((2, 3, 64, 64)))


def test_parts_that_would_write_beyond_their_memory_check_too():
    net = get_model("resnet20_v2", blocks=1)
    net.initialize()
    with pytest.raises(InputError, match=r"\(N, 3, H, W\)"):
        net.features(mx.nd.zeros((3, 32, 32)))
    with pytest.raises(InputError, match=r"this block takes arrays \(N, 16, H, W\)"):
        net.features[2](mx.nd.zeros((64, 32, 32)))
    assert net.features[2:4](mx.nd.zeros((1, 16, 8, 12))).shape == (1, 32, 4, 6)
    attention = AugmentedConv(128, stride=2, size=4)
    attention.initialize()
    with pytest.raises(InputError, match="this layer was built for 8 x 8"):
        attention(mx.nd.zeros((1, 128, 2, 2)))
    assert attention(mx.nd.zeros((1, 128, 8, 8))).shape == (1, 128, 4, 4)


def test_a_layer_of_ones_own_binds_a_net_to_its_size_by_saying_so():
    class Bound(mx.gluon.nn.HybridSequential):
        of_one_size = True

        def __init__(self, channels, size=None, **kwargs):
            super().__init__(**kwargs)

    assert ResNet50(refinement=Bound, input_size=64).takes.side == 64
    assert ResNet50(input_size=64).takes.side is None
