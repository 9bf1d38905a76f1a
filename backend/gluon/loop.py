"""One epoch of training, and evaluation with exact counts, on one device or several."""
import collections
import contextlib
import ctypes
import dataclasses
import logging
import math
from typing import Optional

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from engine.data.prefetch import prefetch
from support.errors import InputError, out_of_memory

from .distributed import Team
from .nag import NAG

log = logging.getLogger(__name__)

# Steps that may be queued on the device before the result of the oldest is read. One is always under way, so the
# device never waits for the host, and the queue stays short enough to stop and to notice NaN at once.
LAG = 2


class Diverged(Exception):
    """The loss or a weight is no longer a finite number."""


class DataFault(InputError):
    """A batch could not be read."""


@dataclasses.dataclass
class Meter:
    """Sums over the images seen: cross entropy (nats) and correct answers."""

    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0

    def update(self, losses, correct):
        self.add(len(losses), np.sum(losses, dtype=np.float64), correct)

    def add(self, images, loss_sum, correct):
        self.images += images
        self.loss_sum += float(loss_sum)
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


def evaluation_batch(contexts):
    """Images to evaluate at once: on a GPU enough to fill it; both divide CIFAR's 10,000, so that nothing is padded."""
    return 1000 if _on_gpus(contexts) else 250


def initialize(net, seed, contexts):
    """He et al.'s initialization as the authors call it: Gaussian, average of the fans, PReLU slope 0.25."""
    mx.random.seed(seed)
    net.initialize(mx.init.MSRAPrelu(), ctx=contexts)


def set_mode(net, mode):
    """'hybrid' compiles the net with static memory; 'imperative' runs it operator by operator."""
    if mode == "hybrid":
        net.hybridize(static_alloc=True, static_shape=True)


def training_type(wanted, contexts):
    """The type to train in on these contexts, and a sentence about it where float16 was asked for; else None."""
    if wanted == "float16" and not _on_gpus(contexts):
        return "float32", "float16 is for GPUs (MXNet's dense layers do not run in it on a CPU): float32 is used"
    return wanted, "float16 with float32 master weights; checkpoints are float32" if wanted == "float16" else None


class LossScale:
    """A power of two that gradients are multiplied by in float16: halved where they overflow, doubled again later.

    The gradient of a step is that of the loss summed over a device's images, which is large already; so the scale
    starts at 1, the authors' way, and moves only where a run needs it. A step with an overflow is left out.
    """

    PATIENCE = 2000  # steps without overflow before the scale doubles
    MOST, LEAST = 2.0 ** 16, 2.0 ** -24

    def __init__(self, value=1.0, sound=0, left_out=0):
        self.value, self.sound, self.left_out = value, sound, left_out

    def as_dict(self):
        return {"value": self.value, "sound": self.sound, "left_out": self.left_out}

    def follow(self, finite):
        """Note whether a step's gradients were finite, and move. Raises Diverged where no scale makes them so."""
        if finite:
            self.sound += 1
            if self.sound >= self.PATIENCE:
                self.sound, self.value = 0, min(2 * self.value, self.MOST)
            return
        self.sound, self.value, self.left_out = 0, self.value / 2, self.left_out + 1
        if self.value < self.LEAST:
            raise Diverged("the gradients overflow float16 at every loss scale")


def finite_gradients(net, context):
    """Whether all gradients on a device are finite. Waits for them."""
    arrays = {}
    for parameter in net.collect_params().values():
        if parameter.grad_req != "null":
            arrays.setdefault(np.dtype(parameter.dtype), []).append(parameter.grad(context))
    checks = [mx.nd.multi_all_finite(*group[start:start + 200], num_arrays=len(group[start:start + 200]))
              for group in arrays.values() for start in range(0, len(group), 200)]
    return all(check.asscalar() == 1 for check in checks)


def make_trainer(net, recipe, kvstore="device", dtype="float32", update_all=None, team=None):
    """NAG over all parameters of net; several devices add their gradients through kvstore: device, local or nccl.

    A team (backend.gluon.distributed) adds them over its workers too, in its own way.

    dtype 'float16' casts net (but for its BatchNorms, which stay float32) and keeps float32 master weights in the
    optimizer's state. The gradient of a step is that of the loss summed over the batch and is divided in float32, so
    that small gradients do not vanish in float16. update_all: an operator that updates everything at once (nag.NAG).
    """
    parameters = net.collect_params()
    if recipe.no_wd:
        for name, parameter in parameters.items():
            if name.endswith(("_gamma", "_beta", "_bias")):
                parameter.wd_mult = 0.0
    if recipe.accumulate > 1:
        for parameter in parameters.values():
            if parameter.grad_req != "null":
                parameter.grad_req = "add"
    masters = {}
    if dtype != "float32":
        masters = {name: parameter.data(parameter.list_ctx()[0]).astype("float32")
                   for name, parameter in parameters.items() if parameter.grad_req != "null"}
        net.cast(dtype)
    optimizer = NAG(update_all, learning_rate=recipe.lr, momentum=recipe.momentum, wd=recipe.wd,
                    multi_precision=dtype != "float32")
    trainer = (team or Team(kvstore)).trainer(parameters, optimizer)
    # Left to the first step, this would copy device 0's running statistics over those of all while they change.
    trainer._init_kvstore()
    trainer._init_params()
    for name, master in masters.items():
        if np.dtype(parameters[name].dtype) != np.float32:
            for device in range(len(parameters[name].list_ctx())):
                # Left to the optimizer, it would be made of the rounded weight.
                optimizer_state(trainer, parameters[name], device)[1][:] = master
    return trainer


def optimizer_state(trainer, parameter, device=0):
    """A parameter's state in the optimizer on one device; created, as zeros, where no step has been made yet.

    The momentum (None without), or for a float16 parameter the pair of it and the float32 master weight.
    """
    updater, index = trainer._updaters[device], trainer._param2idx[parameter.name]
    if index not in updater.states:
        updater.states[index] = trainer._optimizer.create_state_multi_precision(index, parameter.list_data()[device])
        updater.states_synced[index] = True
    return updater.states[index]


def input_type(net):
    """The type of images that net takes: float16 where any of its parameters has that (a BatchNorm's never do)."""
    return "float16" if any(np.dtype(parameter.dtype) == np.float16 for parameter in net.collect_params().values()) \
        else "float32"


def _on_gpus(contexts):
    return contexts[0].device_type == "gpu"


def _read_from(items):
    """The same items; whatever goes wrong in making them, in a data thread too, becomes a DataFault."""
    items = iter(items)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except InputError as error:
            raise DataFault(str(error)) from error
        except Exception as error:
            if out_of_memory(error) is not None:
                raise
            log.debug("a batch could not be read", exc_info=True)
            raise DataFault(f"a batch cannot be read ({type(error).__name__}: {error})") from error
        yield item


def _staged(items, stage, contexts):
    """stage(item) of each; for GPUs by a thread that is one item ahead, so that no GPU waits for it."""
    def results():
        for item in _read_from(items):
            yield stage(item)

    return prefetch(results(), depth=1) if _on_gpus(contexts) else results()


def _array(values, context, dtype="float32"):
    """A NumPy array where the context takes it from: page-locked memory, which a GPU copies by itself, or its own."""
    return mx.nd.array(values, mx.cpu_pinned(context.device_id) if context.device_type == "gpu" else context, dtype)


def _shares(images, labels, contexts, dtype):
    """The part of a batch for each context, as _array has it: [(context, images, labels)]; the last takes the rest."""
    count = min(len(contexts), len(images))
    size = len(images) // count
    edges = [size * index for index in range(count)] + [len(images)]
    return [(context, _array(images[start:end], context, dtype), _array(labels[start:end], context))
            for context, start, end in zip(contexts, edges, edges[1:])]


def reverse(array):
    """An array with its first axis backwards."""
    return mx.nd.reverse(array, axis=0)


class Loss:
    """Cross entropy of logits and labels, one number (nats) an image, with smoothed and with mixed labels.

    smoothing: this share of the target is spread evenly over all outputs, the label's own included [Szegedy et al.
    2016]. share: what is left of the label where images were mixed; the rest is the label of the image at the same
    place from the end.
    """

    def __init__(self, smoothing=0.0):
        self.smoothing = smoothing
        self._plain = gluon.loss.SoftmaxCrossEntropyLoss()
        self._plain.hybridize()  # one call for its four operators

    def __call__(self, logits, labels, share=1.0):
        if not self.smoothing and share == 1:
            return self._plain(logits, labels)
        scores = mx.nd.log_softmax(logits, axis=1)
        own = mx.nd.pick(scores, labels, axis=1)
        if share != 1:
            own = share * own + (1 - share) * mx.nd.pick(scores, reverse(labels), axis=1)
        return -((1 - self.smoothing) * own + self.smoothing * scores.mean(axis=1))


def _parts(shares, count):
    """The shares of a batch, [(images, labels)], in `count` equal parts one after the other: a list of such lists."""
    if count == 1:
        return [shares]
    edges = [[len(labels) * part // count for part in range(count + 1)] for _, labels in shares]
    return [[(images[edge[part]:edge[part + 1]], labels[edge[part]:edge[part + 1]])
             for (images, labels), edge in zip(shares, edges)] for part in range(count)]


def wants_input_gradient(forward, context):
    """Whether a training step must ask for the gradient of its input, which nothing uses.

    On a CPU, MXNet's BatchNorm moves its running statistics in the backward pass, and that reaches a BatchNorm at the
    very input only if the input wants a gradient. It changes no gradient of a weight. A forward pass with
    `own_statistics` moves them itself, as GPUs do.
    """
    return context.device_type == "cpu" and not getattr(forward, "own_statistics", False)


@dataclasses.dataclass
class Method:
    """How a step is computed, beside its batch and its rate.

    smoothing: of the labels (Loss). accumulate: parts of a device's batch, one after the other, for a net whose
    gradients add up (make_trainer). scale: for float16, else None.
    """

    smoothing: float = 0.0
    accumulate: int = 1
    scale: Optional[LossScale] = None


def train_steps(net, trainer, batches, contexts, meter, forward=None, method=None, settle=None):
    """Train on batches; yields (after each step) the steps done.

    batches : (learning rate, images, labels), or (learning rate, images, labels, share) to mix each device's images
        with themselves in reverse: share of an image, the rest of its mirror.
    forward : forward(x) gives the logits where another callable than net, on net's parameters, is to compute them.
    method : a Method; the plain one by default.
    settle : settle(steps done) says after which steps meter is to be complete, and the device through with all of it,
        before they are yielded: the caller saves there.

    The batch is shared out over the contexts; the gradient is the mean over the whole of it. Accuracy counts answers
    that are the image's label, or the one with the larger share. meter lags behind by LAG steps and is complete when
    the generator ends, also when it is closed early. Raises Diverged when a loss is not finite.
    """
    forward, method = forward or net, method or Method()
    scale = method.scale
    cross_entropy = Loss(method.smoothing)
    dtype = input_type(net)
    pending = collections.deque()
    done = 0

    def stage(batch):
        lr, images, labels, *share = batch
        return lr, len(images), _shares(images, labels, contexts, dtype), share[0] if share else 1.0

    def read_all():
        while pending:
            _read(pending.popleft(), meter)
        # The engine does not know that a compiled net's backward pass writes running statistics, and would let
        # others read them before it is through.
        mx.nd.waitall()

    def differentiate(shares, share):
        """Gradients of one part of a batch; returns its (images, sums of loss and of correct answers) by device."""
        if share != 1:
            shares = [(share * x + (1 - share) * reverse(x), y) for x, y in shares]
        for x, _ in shares:
            if wants_input_gradient(forward, x.context):
                x.attach_grad()
        with autograd.record():
            # float16 logits are too coarse for a loss, and sums of them.
            outputs = [forward(x).astype("float32", copy=False) for x, _ in shares]
            losses = [cross_entropy(output, y, share) for output, (_, y) in zip(outputs, shares)]
            heads = losses if scale is None or scale.value == 1 else [loss * scale.value for loss in losses]
        autograd.backward(heads)
        answers = [y if share >= .5 else reverse(y) for _, y in shares]
        # Two numbers a device and step are all that the host ever reads.
        return [(len(y), mx.nd.stack(loss, output.argmax(axis=1) == y).sum(axis=1))
                for loss, output, y in zip(losses, outputs, answers)]

    def update(images):
        """One step of the optimizer, with the gradient's mean over this many images, and as many of each worker."""
        if scale is None:
            trainer.step(images)
        else:
            factor = scale.value
            trainer.allreduce_grads()
            finite = finite_gradients(net, contexts[0])  # summed over all devices and workers, the same on each
            scale.follow(finite)
            if finite:
                trainer.update(images * factor)
        if method.accumulate > 1:
            net.collect_params().zero_grad()

    lost = False
    with contextlib.closing(_staged(batches, stage, contexts)) as staged:
        try:
            for lr, count, shares, share in staged:
                shares = [(x.as_in_context(context), y.as_in_context(context)) for context, x, y in shares]
                results = [result for part in _parts(shares, method.accumulate)
                           for result in differentiate(part, share)]
                trainer.set_learning_rate(lr)
                update(count)
                pending.append(results)
                if len(pending) > LAG:
                    _read(pending.popleft(), meter)
                done += 1
                if settle is not None and settle(done):
                    read_all()
                yield done
        except Exception as error:
            lost = out_of_memory(error) is not None
            raise
        finally:
            if not lost:  # MXNet would wait for ever for a step for which it had no memory or thread
                read_all()


def _read(results, meter):
    for images, sums in results:
        loss_sum, correct = sums.asnumpy()
        if not np.isfinite(loss_sum):
            raise Diverged("the loss is no longer a finite number")
        meter.add(images, loss_sum, correct)


def check_weights(net):
    """Raise Diverged when a weight is not finite. A loss need not show it: MXNet's ReLU turns NaN into 0."""
    for name, parameter in net._collect_params_with_prefix().items():
        for copy in parameter.list_data():
            if not np.isfinite(copy.asnumpy()).all():
                raise Diverged(f"{name} is no longer finite")


def running_statistics(net, team=None):
    """BatchNorm's running statistics, by structural name: a list of arrays, of every device of every worker in turn.

    Each device keeps those of its own share of each batch. Empty where there is but one device.
    """
    parameters = {name: parameter for name, parameter in net._collect_params_with_prefix().items()
                  if parameter.grad_req == "null"}
    own = {name: [copy.as_in_context(mx.cpu()) for copy in parameter.list_data()]
           for name, parameter in parameters.items()}
    if team is None or team.size == 1:
        return {name: copies for name, copies in own.items() if len(copies) > 1}
    devices = len(next(iter(own.values()), []))
    numbers = np.zeros((team.size, devices, sum(copies[0].size for copies in own.values())))
    for device in range(devices):
        numbers[team.rank, device] = np.concatenate([copies[device].asnumpy().ravel() for copies in own.values()])
    numbers = team.total(numbers).reshape(team.size * devices, -1)  # of zeros and one worker's each: exact
    edges = np.cumsum([0] + [copies[0].size for copies in own.values()])
    return {name: [mx.nd.array(row[start:end].reshape(copies[0].shape), dtype=copies[0].dtype) for row in numbers]
            for (name, copies), start, end in zip(own.items(), edges, edges[1:])}


def mean(arrays):
    """The mean of MXNet arrays of one shape on the CPU."""
    return mx.nd.add_n(*arrays) / len(arrays)


def average_running_statistics(net, team=None):
    """Give all devices of all workers the mean of their BatchNorm statistics, which is what a saved file holds.

    Every device keeps statistics of its own share of each batch; without this, evaluation would see one device's and
    a file the mean of all.
    """
    parameters = net._collect_params_with_prefix()
    for name, copies in running_statistics(net, team).items():
        parameters[name].set_data(mean(copies))


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


def evaluate(net, batches, contexts, labels, forward=None, team=None):
    """Evaluate net on batches of (images, labels, count); only the first `count` of a batch are real.

    A team's workers each bring their own batches, and all get the scores over those of all.

    labels is the number of classes in the data; the net may have more outputs. Batches go to the contexts in turn.
    forward(x) gives the logits where another callable than net, on net's parameters, is to compute them. The host
    counts while the device computes the next batches, so that only logits are read and nothing waits for the counts.
    Raises Diverged when the net answers with NaN or infinity.
    """
    forward, dtype = forward or net, input_type(net)
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

    def stage(item):
        index, (images, truth, count) = item
        context = contexts[index % len(contexts)]
        return context, _array(images, context, dtype), np.asarray(truth[:count], np.int64)

    with contextlib.closing(_staged(enumerate(batches), stage, contexts)) as staged:
        for context, x, truth in staged:
            pending.append((forward(x.as_in_context(context)), truth))
            if len(pending) > LAG:
                read()
    while pending:
        read()
    restore_layout(net)
    if not meter.images:
        raise InputError("there are no images to evaluate")
    if team is not None and team.size > 1:
        sums = [meter.images, meter.loss_sum, meter.correct, top5]
        sums, counts = np.split(team.total(np.concatenate([sums, confusion.ravel()])), [len(sums)])
        meter, top5 = Meter(int(sums[0]), sums[1], int(sums[2])), int(sums[3])
        confusion = counts.reshape(confusion.shape).astype(np.int64)
    return Evaluation(meter.images, meter.loss, meter.accuracy, top5 / meter.images, confusion)
