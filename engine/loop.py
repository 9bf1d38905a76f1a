"""One epoch of training, and evaluation with exact counts, on one device or several."""
import collections
import ctypes
import dataclasses
import math

from support import runtime

runtime.prepare()  # before MXNet loads

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from support.errors import InputError

# Steps that may be queued on the device before the result of the oldest is read. One is always under way, so the
# device never waits for the host, and the queue stays short enough to stop and to notice NaN at once.
LAG = 2


class Diverged(Exception):
    """The loss or a weight is no longer a finite number."""


@dataclasses.dataclass
class Meter:
    """Sums over the images seen: cross entropy (nats) and correct answers."""

    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0

    def update(self, losses, correct):
        self.images += len(losses)
        self.loss_sum += float(np.sum(losses, dtype=np.float64))
        self.correct += int(correct)

    @property
    def loss(self):
        return self.loss_sum / self.images if self.images else math.nan

    @property
    def accuracy(self):
        return self.correct / self.images if self.images else math.nan


def devices(gpus):
    """Contexts for GPU numbers, and a sentence about the choice.

    Without any GPU the same number of CPU contexts takes their place, so that the global batch stays what the
    command says. Raises InputError for a number that the machine does not have.
    """
    wanted = list(gpus)
    if len(set(wanted)) != len(wanted) or any(number < 0 for number in wanted):
        raise InputError(f"--gpus takes different numbers of at least 0, got {','.join(map(str, wanted))}")
    present = mx.context.num_gpus()
    if not wanted:
        return [mx.cpu()], "running on the CPU, as asked"
    if not present:
        number = "the CPU" if len(wanted) == 1 else f"{len(wanted)} CPU contexts in the place of {len(wanted)} GPUs"
        return [mx.cpu(index) for index in range(len(wanted))], f"no GPU is present: running on {number}"
    if max(wanted) >= present:
        raise InputError(f"--gpus {','.join(map(str, wanted))}: this machine has {present} GPU(s), "
                         f"numbered from 0 to {present - 1}")
    return [mx.gpu(number) for number in wanted], f"running on GPU {', '.join(map(str, wanted))}"


def initialize(net, seed, contexts):
    """He et al.'s initialization as the authors call it: Gaussian, average of the fans, PReLU slope 0.25."""
    mx.random.seed(seed)
    net.initialize(mx.init.MSRAPrelu(), ctx=contexts)


def set_mode(net, mode):
    """'hybrid' compiles the net with static memory; 'imperative' runs it operator by operator."""
    if mode == "hybrid":
        net.hybridize(static_alloc=True, static_shape=True)


def make_trainer(net, recipe, kvstore="device"):
    """NAG over all parameters of net; several devices add their gradients through kvstore: device, local or nccl."""
    parameters = net.collect_params()
    if recipe.no_wd:
        for name, parameter in parameters.items():
            if name.endswith(("_gamma", "_beta", "_bias")):
                parameter.wd_mult = 0.0
    trainer = gluon.Trainer(parameters, "nag",
                            {"learning_rate": recipe.lr, "momentum": recipe.momentum, "wd": recipe.wd},
                            kvstore=kvstore, update_on_kvstore=False)
    # Left to the first step, this would copy device 0's running statistics over those of all while they change.
    trainer._init_kvstore()
    trainer._init_params()
    return trainer


def train_steps(net, trainer, batches, contexts, meter):
    """Train on batches, an iterable of (learning rate, images, labels); yields (after each step) the steps done.

    The batch is shared out over the contexts; the gradient is the mean over the whole of it. meter lags behind by
    LAG steps and is complete when the generator ends, also when it is closed early. Raises Diverged when a loss is
    not finite.
    """
    cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()
    pending = collections.deque()
    done = 0
    try:
        for lr, images, labels in batches:
            images, labels = mx.nd.array(images, mx.cpu()), mx.nd.array(labels, mx.cpu())
            shares = list(zip(gluon.utils.split_and_load(images, contexts, even_split=False),
                              gluon.utils.split_and_load(labels, contexts, even_split=False)))
            for x, _ in shares:
                # On a CPU, BatchNorm moves its running statistics in the backward pass, and that reaches a BatchNorm
                # at the very input only if the input wants a gradient. It changes no gradient of a weight.
                if x.context.device_type == "cpu":
                    x.attach_grad()
            with autograd.record():
                outputs = [net(x) for x, _ in shares]
                losses = [cross_entropy(output, y) for output, (_, y) in zip(outputs, shares)]
            autograd.backward(losses)
            trainer.set_learning_rate(lr)
            trainer.step(len(images))
            pending.append([(loss, (output.argmax(axis=1) == y).sum())
                            for loss, output, (_, y) in zip(losses, outputs, shares)])
            if len(pending) > LAG:
                _read(pending.popleft(), meter)
            done += 1
            yield done
    finally:
        while pending:
            _read(pending.popleft(), meter)
        # The engine does not know that a compiled net's backward pass writes running statistics, and would let others
        # read them before it is through.
        mx.nd.waitall()


def _read(results, meter):
    for loss, correct in results:
        losses = loss.asnumpy()
        if not np.isfinite(losses).all():
            raise Diverged("the loss is no longer a finite number")
        meter.update(losses, correct.asscalar())


def check_weights(net):
    """Raise Diverged when a weight is not finite. A loss need not show it: MXNet's ReLU turns NaN into 0."""
    for name, parameter in net._collect_params_with_prefix().items():
        for copy in parameter.list_data():
            if not np.isfinite(copy.asnumpy()).all():
                raise Diverged(f"{name} is no longer finite")


def average_running_statistics(net):
    """Give all devices the mean of their BatchNorm statistics, which is what a saved file holds.

    Every device keeps statistics of its own share of each batch; without this, evaluation would see one device's and
    a file the mean of all.
    """
    for parameter in net.collect_params().values():
        if parameter.grad_req == "null" and len(parameter.list_ctx()) > 1:
            copies = [copy.as_in_context(mx.cpu()) for copy in parameter.list_data()]
            parameter.set_data(mx.nd.add_n(*copies) / len(copies))


def restore_layout(net):
    """Bring the weights back to MXNet's plain layout after inference.

    On a CPU, inference converts each convolution's weights in place to oneDNN's blocked layout, and a step of
    training that meets such a weight picks another kernel, depending on the threads' timing: the run would no
    longer be repeatable to the bit. Asking for an array's address converts it back.
    """
    mx.nd.waitall()
    for parameter in net.collect_params().values():
        for array in parameter.list_data():
            if array.context.device_type == "cpu":
                mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(ctypes.c_void_p())))


@dataclasses.dataclass
class Evaluation:
    """Scores over every image once. confusion[i, j] counts images of class i answered j."""

    images: int
    loss: float
    top1: float
    top5: float
    confusion: np.ndarray


def evaluate(net, batches, contexts, labels):
    """Evaluate net on batches of (images, labels, count); only the first `count` of a batch are real.

    labels is the number of classes in the data; the net may have more outputs. Batches go to the contexts in turn.
    Raises Diverged when the net answers with NaN or infinity.
    """
    meter, top5 = Meter(), 0
    pending = collections.deque()
    confusion = None

    def read():
        nonlocal top5, confusion
        output, truth = pending.popleft()
        logits = output.asnumpy()[:len(truth)].astype(np.float64)
        if not np.isfinite(logits).all():
            raise Diverged("the net answers with numbers that are not finite")
        if confusion is None:
            confusion = np.zeros((labels, max(labels, logits.shape[1])), np.int64)
        own = logits[np.arange(len(truth)), truth]
        shifted = logits - logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(axis=1)) + logits.max(axis=1) - own
        answers = logits.argmax(axis=1)
        # Rank by counting larger logits and, as argmax does, equal ones that come first.
        before = np.arange(logits.shape[1]) < truth[:, None]
        ranks = ((logits > own[:, None]) | ((logits == own[:, None]) & before)).sum(axis=1)
        meter.update(losses, (answers == truth).sum())
        top5 += int((ranks < 5).sum())
        np.add.at(confusion, (truth, answers), 1)

    for index, (images, truth, count) in enumerate(batches):
        context = contexts[index % len(contexts)]
        pending.append((net(mx.nd.array(images, context)), np.asarray(truth[:count], np.int64)))
        if len(pending) > LAG:
            read()
    while pending:
        read()
    restore_layout(net)
    if not meter.images:
        raise InputError("there are no images to evaluate")
    return Evaluation(meter.images, meter.loss, meter.accuracy, top5 / meter.images, confusion)
