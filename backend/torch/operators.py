"""MXNet's operators as functions of tensors: inputs in MXNet's order, MXNet's attributes and defaults as keywords.

To add one: write the function under @operator("its name in MXNet"). @layer is for one whose parameters stand in a
module: a function of the parameters and the attributes that returns it. Both take the values that an attribute may
have, if some have no translation.
"""
import torch
from torch import nn
from torch.nn import functional as F

from support.errors import InputError

FUNCTIONS = {
    "BlockGrad": torch.detach, "broadcast_add": torch.add, "broadcast_mul": torch.mul, "elemwise_add": torch.add,
    "elemwise_mul": torch.mul, "elemwise_sub": torch.sub, "exp": torch.exp, "log": torch.log,
    "ones_like": torch.ones_like, "relu": torch.relu, "sigmoid": torch.sigmoid, "sin": torch.sin,
    "square": torch.square,
}
MODULES = {}  # of these functions: the layers
ALLOWED = {}  # {operator: {attribute: values that have a translation}}


def operator(name, **allowed):
    """Register a function under the name of an operator."""
    def register(function):
        FUNCTIONS[name] = function
        ALLOWED[name] = allowed
        return function
    return register


def layer(name, **allowed):
    """Register the function that makes the module of an operator."""
    def register(function):
        MODULES[name] = function
        ALLOWED[name] = allowed
        return function
    return register


# ---- Layers

@operator("Convolution")
def convolution(x, weight, bias=None, *, kernel, num_filter, stride=(1, 1), dilate=(1, 1), pad=(0, 0), num_group=1,
                no_bias=False, layout=None, workspace=None, cudnn_tune=None, cudnn_off=None):
    return F.conv2d(x, weight, bias, stride, pad, dilate, num_group)


@operator("FullyConnected")
def fully_connected(x, weight, bias=None, *, num_hidden, no_bias=False, flatten=True):
    return F.linear(x.flatten(1) if flatten else x, weight, bias)


@layer("Convolution", layout=(None, "NCHW"))
def convolution_module(weight, bias=None, *, kernel, num_filter, stride=(1, 1), dilate=(1, 1), pad=(0, 0), num_group=1,
                       **ignored):
    module = nn.Conv2d(weight.shape[1] * num_group, num_filter, kernel, stride, pad, dilate, num_group,
                       bias=bias is not None, device="meta")
    module.weight, module.bias = weight, bias
    return module


class Dense(nn.Linear):
    """A Linear that makes a row of each image first, as FullyConnected does."""

    def forward(self, x):
        return super().forward(x.flatten(1))


@layer("FullyConnected")
def dense_module(weight, bias=None, *, num_hidden, flatten=True, **ignored):
    module = (Dense if flatten else nn.Linear)(weight.shape[1], num_hidden, bias is not None, device="meta")
    module.weight, module.bias = weight, bias
    return module


@layer("BatchNorm", axis=(1,), output_mean_var=(False,), use_global_stats=(False,))
def batch_norm_module(gamma, beta, mean, variance, *, eps=1e-3, momentum=0.9, fix_gamma=True, use_global_stats=False,
                      axis=1, output_mean_var=False, cudnn_off=None, min_calib_range=None, max_calib_range=None):
    """MXNet's momentum is the share that stays, PyTorch's the share that is new. A fixed gamma is 1, whatever it holds.

    PyTorch moves the running variance by the unbiased variance of a batch, as cuDNN does; MXNet on a CPU by the biased.
    """
    module = nn.BatchNorm2d(len(gamma), eps, 1 - momentum)
    module.weight, module.bias = gamma, beta
    module.running_mean, module.running_var = mean.data, variance.data
    if fix_gamma:
        module.weight.requires_grad_(False).fill_(1)
    return module


@operator("Pooling", pool_type=("max", "avg"), pooling_convention=("valid", "full"), layout=(None, "NCHW"))
def pooling(x, *, kernel=(), pool_type="max", global_pool=False, stride=(1, 1), pad=(0, 0), pooling_convention="valid",
            count_include_pad=True, layout=None, cudnn_off=None):
    """Convention 'valid' leaves out what does not fill a window, 'full' makes it one."""
    if global_pool:
        return x.amax((2, 3), True) if pool_type == "max" else x.mean((2, 3), True)
    whole = pooling_convention == "full"
    if pool_type == "max":
        return F.max_pool2d(x, kernel, stride, pad, ceil_mode=whole)
    return F.avg_pool2d(x, kernel, stride, pad, whole, count_include_pad)


# ---- Elementwise

@operator("Activation", act_type=("relu", "sigmoid"))
def activation(x, *, act_type):
    return torch.relu(x) if act_type == "relu" else torch.sigmoid(x)


@operator("LeakyReLU", act_type=("leaky", "elu", "gelu"))
def leaky_relu(x, *, act_type="leaky", slope=0.25, lower_bound=None, upper_bound=None):
    if act_type == "gelu":
        return F.gelu(x)
    return F.elu(x, slope) if act_type == "elu" else F.leaky_relu(x, slope)


@operator("_mul_scalar")
def mul_scalar(x, *, scalar, is_int=None):
    return x * scalar


@operator("add_n")
def add_n(*inputs, num_args=None):
    total = inputs[0]
    for each in inputs[1:]:
        total = total + each
    return total


@operator("softmax", temperature=(None,), use_length=(False,), dtype=(None,))
def softmax(x, *, axis=-1, temperature=None, dtype=None, use_length=False):
    return torch.softmax(x, axis)


# ---- Shapes

@operator("Flatten")
def flatten(x):
    return x.flatten(1)


@operator("Concat")
def concat(*inputs, num_args=None, dim=1):
    return torch.cat(inputs, dim)


@operator("Reshape", reverse=(False,))
def reshape(x, *, shape, reverse=False):
    """MXNet's codes: 0 keeps a length, -1 is what is left over; the others have no translation."""
    if min(shape) < -1:
        raise InputError(f"the operator Reshape has shape={shape}; there is a translation for lengths, 0 and -1")
    return x.reshape([x.shape[place] if length == 0 else length for place, length in enumerate(shape)])


@operator("reshape_like")
def reshape_like(x, like):
    return x.reshape(like.shape)


@operator("expand_dims")
def expand_dims(x, *, axis):
    return x.unsqueeze(axis)


@operator("broadcast_axis")
def broadcast_axis(x, *, axis, size):
    lengths = [-1] * x.dim()
    for place, length in zip(_several(axis), _several(size)):
        lengths[place] = length
    return x.expand(lengths)


@operator("transpose")
def transpose(x, *, axes=()):
    return x.permute(axes or list(range(x.dim()))[::-1])


@operator("slice_axis")
def slice_axis(x, *, axis, begin, end):
    return x[(slice(None),) * (axis % x.dim()) + (slice(begin, end),)]


@operator("space_to_depth")
def space_to_depth(x, *, block_size):
    """The place in a block becomes the slow part of the channel (in PyTorch's pixel_unshuffle it is the fast one)."""
    (n, c, h, w), b = x.shape, block_size
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, b * b * c, h // b, w // b)


@operator("depth_to_space")
def depth_to_space(x, *, block_size):
    (n, c, h, w), b = x.shape, block_size
    return x.reshape(n, b, b, c // b ** 2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b ** 2, h * b, w * b)


@operator("im2col")
def im2col(x, *, kernel, stride=(1, 1), dilate=(1, 1), pad=(0, 0)):
    return F.unfold(x, kernel, dilate, pad, stride)


@operator("_contrib_BilinearResize2D", mode=("size",), scale_height=(None,), scale_width=(None,))
def bilinear_resize(x, *, height=1, width=1, scale_height=None, scale_width=None, mode="size", align_corners=True):
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=align_corners)


# ---- Sums and products

@operator("sum", exclude=(False,))
def total(x, *, axis=None, keepdims=False, exclude=False):
    return x.sum(axis, keepdim=keepdims)


@operator("batch_dot")
def batch_dot(a, b, *, transpose_a=False, transpose_b=False, forward_stype=None):
    return torch.bmm(a.transpose(1, 2) if transpose_a else a, b.transpose(1, 2) if transpose_b else b)


def _several(value):
    return value if isinstance(value, (tuple, list)) else (value,)
