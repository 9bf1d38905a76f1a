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
        self.expected = [answers_of(plain, batch) for batch in self.batches]
        outputs = [np.concatenate(answers) for answers in zip(*self.expected)]
        self.fault = None
        if not all(np.isfinite(output).all() for output in outputs):
            self.fault = "it answers random images with numbers that are not finite"
        elif any((output == output[0]).all() for output in outputs):
            self.fault = "it answers all random images alike"
        else:
            self.spreads = [output.std() for output in outputs]

    def distance(self, net):
        """Largest difference over all answers, in units of the spread; infinity if an answer is not finite."""
        worst = 0.0
        for batch, expected in zip(self.batches, self.expected):
            for answer, right, spread in zip(answers_of(net, batch), expected, self.spreads):
                if answer.shape != right.shape or not np.isfinite(answer).all():
                    return np.inf
                worst = max(worst, float(np.abs(answer - right).max() / spread))
        return worst


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


def answers_of(net, batch):
    """The net's outputs as a list of float64 arrays."""
    outputs = net(batch)
    return [output.asnumpy().astype(np.float64)
            for output in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]
