"""Self-attention as a spatial layer: the two competitors of Table IV that attend over positions.

A layer is built like the bottleneck's 3x3, as ``layer(channels, stride=1, size=side of its output)``. It maps
(N, C, stride * size, stride * size) to (N, C, size, size). Every position has a query, a key and a value; softmax turns
the products of queries and keys into weights of the values. Each head uses its own part of the channels.
"""
import math

from mxnet import initializer
from mxnet.gluon import HybridBlock, nn

from support.errors import InputError

from .activation import finite, pointwise, truth, whole
from .checked import Checked, Takes


def per_head(name, channels, heads, multiple=1):
    """Channels of one head. Raises InputError unless heads divides them into parts that are multiples of `multiple`."""
    whole(name, channels)
    if channels % (whole("heads", heads) * multiple):
        raise InputError(f"{name}={channels} cannot be divided among heads={heads}"
                         f"{f' in multiples of {multiple}' if multiple > 1 else ''}; choose another number of heads")
    return channels // heads


def position_table(block, name, shape):
    """A learned table of positions; its last axis has the length of a query."""
    return block.params.get(name, shape=shape, init=initializer.Normal(shape[-1] ** -0.5))


class AugmentedConv(Checked):
    """3x3 convolution to C - dv channels, beside 1x1, multi-head attention over the map, 1x1 to dv [Bello et al. 2019].

    The logit of a query q at (y, x) and a key k at (v, u) is d^-1/2 q.(k + width[u - x] + height[v - y]), where d is a
    head's share of key_channels. The heads share the two tables.

    Parameters
    ----------
    size : side of the output, at least 1; the tables' lengths depend on it.
    heads, key_channels : of the attention; the AA paper's small layers have 20 key_channels for each head.
    value_ratio : dv / C; dv is rounded down to a multiple of heads.
    largest_map : side of the largest map to attend on. A larger map is averaged first (to a half: 3x3 with stride 2, as
        in the AA paper), and the result is enlarged bilinearly.
    use_bias : whether the 1x1 convolutions have biases.

    Raises InputError for a wrong argument.
    """

    of_one_size = True

    def __init__(self, channels, stride=1, size=None, heads=8, key_channels=160, value_ratio=0.1, largest_map=14,
                 use_bias=True, **kwargs):
        super().__init__(**kwargs)
        whole("channels", channels)
        if size is None:
            raise InputError("an augmented convolution needs size, the side of its output")
        self._key_share = per_head("key_channels", key_channels, heads)
        self._value_share = int(finite("value_ratio", value_ratio, least=0) * channels) // heads
        values = self._value_share * heads
        if not 0 < values < channels:
            raise InputError(f"value_ratio={value_ratio} leaves {values} of channels={channels} to heads={heads}; "
                             "attention and convolution need some each")
        self._size, self._heads, self._keys = whole("size", size), heads, key_channels
        # MXNet's Reshape does not compare sizes; with a map of another side it would read beyond its memory.
        self.takes = Takes(channels, whole("stride", stride) * size, block="layer")
        pool = math.ceil(size / whole("largest_map", largest_map))
        self._side = side = math.ceil(size / pool)
        truth("use_bias", use_bias)
        with self.name_scope():
            self.conv = nn.Conv2D(channels - values, 3, stride, 1, use_bias=False, in_channels=channels)
            self.pool = None
            if pool > 1:
                self.pool = nn.AvgPool2D(2 * pool - 1, pool, pool - 1, count_include_pad=False)
            self.qkv = nn.Conv2D(2 * key_channels + values, 1, stride, use_bias=use_bias, in_channels=channels)
            self.output = pointwise(values, values, use_bias)
            self.height = position_table(self, "height", (2 * side - 1, self._key_share))
            self.width = position_table(self, "width", (2 * side - 1, self._key_share))

    def hybrid_forward(self, F, x, height, width):
        side, share = self._side, self._key_share
        # For a map of another side, until concat refuses it: without this reshape MXNet's shape inference would set the
        # -1 below to 0 and divide by it.
        qkv = F.reshape(self.qkv(x if self.pool is None else self.pool(x)), (0, 0, side, side))
        query, key, value = (F.slice_axis(qkv, axis=1, begin=begin, end=end) for begin, end in
                             ((0, self._keys), (self._keys, 2 * self._keys), (2 * self._keys, None)))
        query = F.reshape(query, (-1, share, side, side)) * share ** -0.5  # the first axis is images x heads
        logits = F.reshape(F.batch_dot(F.reshape(query, (-1, share, side * side)),
                                       F.reshape(key, (-1, share, side * side)), transpose_a=True),
                           (-1, side, side, side, side))  # images x heads, y, x, v, u
        along = F.reshape(self._relative(F, F.transpose(query, (0, 2, 3, 1)), width), (-1, side, side, 1, side))
        down = F.reshape(self._relative(F, F.transpose(query, (0, 3, 2, 1)), height), (-1, side, side, side, 1))
        logits = F.broadcast_add(F.broadcast_add(logits, along), F.transpose(down, (0, 2, 1, 3, 4)))
        weights = F.softmax(F.reshape(logits, (-1, side * side, side * side)), axis=2)
        attended = F.batch_dot(F.reshape(value, (-1, self._value_share, side * side)), weights, transpose_b=True)
        attended = self.output(F.reshape(attended, (-1, self._value_share * self._heads, side, side)))
        if self.pool is not None:
            attended = F.contrib.BilinearResize2D(attended, height=self._size, width=self._size, align_corners=False)
        # As (N, C, H W): with four axes oneDNN joins the two, and it cannot split a gradient at channels that are not a
        # multiple of its block (MXNet 1.9.1: "could not construct a sub-memory").
        joined = F.concat(F.reshape(self.conv(x), (0, 0, -1)), F.reshape(attended, (0, 0, -1)), dim=1)
        return F.reshape(joined, (0, 0, self._size, self._size))

    def _relative(self, F, query, table):
        """Products of queries (M, L, L, d) and table rows (2L - 1, d), by the position of the key.

        Returns (M * L, L, L): [..., i, j] is the product of query i with row j - i + L - 1. In the products' row-major
        order, entry (i, j) stands 2L - 2 numbers after entry (i - 1, j), so cutting off both ends leaves a table.
        """
        length = self._side
        products = F.FullyConnected(F.reshape(query, (-1, self._key_share)), table, num_hidden=2 * length - 1,
                                    no_bias=True)
        if length == 1:
            return F.reshape(products, (-1, 1, 1))
        row = 2 * length - 2
        products = F.reshape(products, (-1, length * (row + 1)))
        products = F.slice_axis(products, axis=1, begin=length - 1, end=length - 1 + length * row)
        return F.slice_axis(F.reshape(products, (-1, length, row)), axis=2, begin=0, end=length)


class LocalAttention(HybridBlock):
    """1x1 to query, key and value, attention over k x k windows, average pool [Ramachandran et al. 2019].

    The logit of a query q and the key k at distance (a, b) is q.(k + (row[a], column[b])). Each head has its own
    embeddings, half of its channels for the rows and half for the columns.

    Parameters
    ----------
    stride : the attended map is averaged over stride x stride positions; it divides the map's sides.
    size : not used; any map is allowed.
    kernel_size : side of the window, odd. heads : must divide channels into even parts.
    zero_padding : windows that reach over the border also attend to the zeros there, as a convolution does; False
        leaves these positions out.

    The windows need memory: kernel_size^2 numbers for every number of the keys and values.
    Raises InputError for a wrong argument.
    """

    def __init__(self, channels, stride=1, size=None, kernel_size=7, heads=8, zero_padding=False, **kwargs):
        super().__init__(**kwargs)
        self._share = per_head("channels", channels, heads, multiple=2)
        if whole("kernel_size", kernel_size) % 2 == 0:
            raise InputError(f"kernel_size must be odd so that a window has a centre, got {kernel_size}")
        self._heads, self._kernel = heads, kernel_size
        self._padded = truth("zero_padding", zero_padding)
        self.divides = whole("stride", stride)
        with self.name_scope():
            self.query = pointwise(channels, channels)
            self.key = pointwise(channels, channels)
            self.value = pointwise(channels, channels)
            self.row = position_table(self, "row", (heads, kernel_size, 1, self._share // 2))
            self.column = position_table(self, "column", (heads, 1, kernel_size, self._share // 2))
            self.pool = nn.AvgPool2D(stride, stride) if stride > 1 else None

    def _windows(self, F, x):
        """(N, C, H, W) to (N, C k^2, H W): the k^2 neighbours of every number."""
        k = self._kernel
        return F.im2col(x, kernel=(k, k), stride=(1, 1), dilate=(1, 1), pad=(k // 2, k // 2))

    def hybrid_forward(self, F, x, row, column):
        heads, share, k = self._heads, self._share, self._kernel
        query, key = self.query(x), self.key(x)
        value = F.reshape(self._windows(F, self.value(x)), (0, heads, share, k * k, -1))
        content = F.sum(F.broadcast_mul(F.reshape(query, (0, heads, share, 1, -1)),
                                        F.reshape(self._windows(F, key), (0, heads, share, k * k, -1))), axis=2)
        # The products of queries and embeddings are a 1x1 convolution with the embeddings as its filters.
        embeddings = F.concat(F.broadcast_axis(row, axis=2, size=k), F.broadcast_axis(column, axis=1, size=k), dim=3)
        position = F.Convolution(query, F.reshape(embeddings, (-1, share, 1, 1)), kernel=(1, 1), no_bias=True,
                                 num_filter=heads * k * k, num_group=heads)
        logits = content + F.reshape(position, (0, heads, k * k, -1))
        if not self._padded:
            inside = self._windows(F, F.ones_like(F.slice_axis(x, axis=1, begin=0, end=1)))
            logits = F.broadcast_add(logits, F.BlockGrad(F.log(F.expand_dims(inside, axis=1))))  # log 0: weight 0
        weights = F.expand_dims(F.softmax(logits, axis=2), axis=2)
        y = F.reshape_like(F.sum(F.broadcast_mul(weights, value), axis=3), query)
        return y if self.pool is None else self.pool(y)


class StemAttention(HybridBlock):
    """1x1 to query, key and mixed value, attention within b x b blocks [Ramachandran et al. 2019].

    Maps images (N, 3, H, W) to (N, C, H, W); b divides H and W. A pixel has little content, so its value depends on its
    place: of `mixtures` 1x1 convolutions, convolution m has the weight softmax_m((row[i] + column[j]).nu[m]) at row i
    and column j of a block. The logits are the plain products of queries and keys.

    Raises InputError for a wrong argument.
    """

    def __init__(self, channels, block=4, heads=4, mixtures=4, in_channels=3, **kwargs):
        super().__init__(**kwargs)
        self._share, self._heads = per_head("channels", channels, heads), heads
        self._block, self._mixtures = whole("block", block), whole("mixtures", mixtures)
        self._channels, self.divides = channels, self._block
        with self.name_scope():
            self.query = pointwise(channels, in_channels)
            self.key = pointwise(channels, in_channels)
            self.value = pointwise(mixtures * channels, in_channels)
            self.row = position_table(self, "row", (block, 1, channels))
            self.column = position_table(self, "column", (1, block, channels))
            self.mixture = position_table(self, "mixture", (mixtures, channels))

    def hybrid_forward(self, F, x, row, column, mixture):
        pixels = self._block ** 2

        def heads_of(blocks):  # (N, pixels x C, rows, columns of blocks) to (N, heads, blocks, pixels, share)
            return F.transpose(F.reshape(blocks, (0, pixels, self._heads, self._share, -1)), (0, 2, 4, 1, 3))

        def flat(y):
            return F.reshape(y, (-1, pixels, self._share))

        query = F.space_to_depth(self.query(x), self._block)
        key = F.space_to_depth(self.key(x), self._block)
        places = F.reshape(F.broadcast_add(row, column), (-1, self._channels))
        shares = F.softmax(F.FullyConnected(places, mixture, num_hidden=self._mixtures, no_bias=True), axis=1)
        values = F.reshape(F.space_to_depth(self.value(x), self._block),
                           (0, pixels, self._mixtures * self._channels, -1))
        value = F.add_n(*(F.broadcast_mul(
            F.slice_axis(values, axis=2, begin=m * self._channels, end=(m + 1) * self._channels),
            F.reshape(F.slice_axis(shares, axis=1, begin=m, end=m + 1), (1, pixels, 1, 1)))
            for m in range(self._mixtures)))
        by_head = heads_of(query)
        weights = F.softmax(F.batch_dot(flat(by_head), flat(heads_of(key)), transpose_b=True), axis=2)
        attended = F.reshape_like(F.batch_dot(weights, flat(heads_of(value))), by_head)
        attended = F.reshape_like(F.transpose(attended, (0, 3, 1, 4, 2)), query)
        return F.depth_to_space(attended, self._block)


def attention_stem(channels):
    """Attention within 4x4 blocks of pixels, and the 4x4 max pool with stride 4 that follows BN and ReLU."""
    return StemAttention(channels), nn.MaxPool2D(4, 4)
