"""Whether another form of a net answers as the plain one."""
import mxnet as mx
import numpy as np

IMAGES = 64  # at least so many images must get the plain net's answers
# Largest difference from the plain net, in units of the logits' standard deviation. A float16 number
# has 11 bits, so ten roundings are 0.01.
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "float16": 1e-2}


class Agreement:
    """The plain net's answers to seeded random images, to compare other forms with.

    images: how many different ones. fault: why nothing can be compared, or None.
    """

    def __init__(self, plain, example, contexts):
        self.tolerance = TOLERANCE[str(np.dtype(example.dtype))]
        batches = random_batches(example)
        self.images = sum(len(batch) for batch in batches[:-1])
        self.batches = [mx.nd.array(batch, context, example.dtype) for context in contexts for batch in batches]
        self.expected = self._answers(plain)
        self.fault = None
        if not np.isfinite(self.expected).all():
            self.fault = "it answers random images with numbers that are not finite"
        elif (self.expected == self.expected[0]).all():
            self.fault = "it answers all random images alike"

    def _answers(self, net):
        """The answers to all batches as one float64 array."""
        return np.concatenate([net(batch).asnumpy() for batch in self.batches]).astype(np.float64)

    def distance(self, net):
        """Largest difference over all answers, in units of the spread; NaN, which is within no tolerance, stays NaN."""
        return np.abs(self._answers(net) - self.expected).max() / self.expected.std()


def random_batches(example):
    """Batches of the example's length with IMAGES images or more, one of another length, and the first one again.

    They are white noise with the example's mean and spread. If the input does not fit BatchNorm's statistics at all, a
    deep net can enlarge each rounding a thousand times.
    """
    values = example.astype("float64").asnumpy()
    mean, spread = values.mean(), values.std()
    if not np.isfinite(spread) or spread == 0:
        mean, spread = 0.0, 1.0
    random = np.random.RandomState(0)
    length = len(values)
    other = length // 2 + 1 if length > 2 else length + 1
    batches = [mean + spread * random.standard_normal((count,) + values.shape[1:])
               for count in [length] * -(-IMAGES // length) + [other]]
    return [*batches, batches[0]]
