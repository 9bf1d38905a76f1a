"""One epoch of training, and scores over images, on one device or several."""
import collections
import contextlib
import dataclasses
from typing import Optional

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from engine.steps import LAG, Counts, LossScale
from support.errors import out_of_memory

from .placement import array, input_type, shares, staged
from .state import restore_layout


def finite_gradients(net, context):
    """Whether all gradients on a device are finite. Waits for them."""
    arrays = {}
    for parameter in net.collect_params().values():
        if parameter.grad_req != "null":
            arrays.setdefault(np.dtype(parameter.dtype), []).append(parameter.grad(context))
    checks = [mx.nd.multi_all_finite(*group[start:start + 200], num_arrays=len(group[start:start + 200]))
              for group in arrays.values() for start in range(0, len(group), 200)]
    return all(check.asscalar() == 1 for check in checks)


def reverse(array):
    """An array with its first axis backwards."""
    return mx.nd.reverse(array, axis=0)


class Loss:
    """Cross entropy of logits and labels, one number (nats) an image, with smoothed and with mixed labels.

    smoothing: this share of the target is spread evenly over all outputs, the label's own included [Szegedy et al.
    2016]. share: the label's weight if images were mixed; the rest belongs to the label of the image at the same place
    from the end.
    """

    def __init__(self, smoothing=0.0):
        self.smoothing = smoothing
        self._plain = gluon.loss.SoftmaxCrossEntropyLoss()
        self._plain.hybridize()  # one call in place of four operators

    def __call__(self, logits, labels, share=1.0):
        if not self.smoothing and share == 1:
            return self._plain(logits, labels)
        scores = mx.nd.log_softmax(logits, axis=1)
        own = mx.nd.pick(scores, labels, axis=1)
        if share != 1:
            own = share * own + (1 - share) * mx.nd.pick(scores, reverse(labels), axis=1)
        return -((1 - self.smoothing) * own + self.smoothing * scores.mean(axis=1))


def _parts(shares, count):
    """The shares of a batch, [(images, labels)], cut into `count` equal parts: a list of such lists."""
    if count == 1:
        return [shares]
    edges = [[len(labels) * part // count for part in range(count + 1)] for _, labels in shares]
    return [[(images[edge[part]:edge[part + 1]], labels[edge[part]:edge[part + 1]])
             for (images, labels), edge in zip(shares, edges)] for part in range(count)]


def wants_input_gradient(forward, context):
    """Whether a training step must ask for the gradient of its input, although nothing uses it.

    On a CPU, MXNet's BatchNorm moves its running statistics in the backward pass, which reaches a BatchNorm at the very
    input only if the input wants a gradient. The weights' gradients stay the same. A forward pass with `own_statistics`
    moves the statistics itself, as GPUs do.
    """
    return context.device_type == "cpu" and not getattr(forward, "own_statistics", False)


@dataclasses.dataclass
class Method:
    """How a step is computed, in addition to its batch and rate.

    smoothing: of the labels (Loss). accumulate: number of parts of a device's batch, computed one after the other; the
    net's gradients must add up (make_trainer). scale: for float16, else None.
    """

    smoothing: float = 0.0
    accumulate: int = 1
    scale: Optional[LossScale] = None


def train_steps(net, trainer, batches, contexts, meter, forward=None, method=None, settle=None):
    """Train on batches; after each step yields the number of steps done.

    batches : (learning rate, images, labels), or (learning rate, images, labels, share) to mix each device's images
        with the same images in reverse order: share of the one image, 1 - share of the other.
    forward : forward(x) gives the logits from net's parameters; None for net itself.
    method : a Method; the plain one by default.
    settle : called after each step with the steps done; if it returns True, meter is brought up to date and the device
        finishes before the number is yielded, so that the caller can save.

    The batch is divided among the contexts; the gradient is the mean over the whole batch. Accuracy counts answers that
    are the image's label, or the label with the larger share. meter lags LAG steps behind; it is complete when the
    generator ends, even if it is closed early. Raises Diverged if a loss is not finite.
    """
    forward, method = forward or net, method or Method()
    cross_entropy, dtype = Loss(method.smoothing), input_type(net)
    pending = collections.deque()

    def stage(batch):
        lr, images, labels, *share = batch
        return lr, len(images), shares(images, labels, contexts, dtype), share[0] if share else 1.0

    def read_all():
        while pending:
            _read(pending.popleft(), meter)
        # MXNet's engine does not know that a compiled net's backward pass writes running statistics; it would let
        # others read them too early.
        mx.nd.waitall()

    lost = False
    with contextlib.closing(staged(batches, stage, contexts)) as steps:
        try:
            for done, (lr, count, parts, share) in enumerate(steps, 1):
                parts = [(x.as_in_context(context), y.as_in_context(context)) for context, x, y in parts]
                pending.append([sums for part in _parts(parts, method.accumulate)
                                for sums in _differentiate(forward, cross_entropy, part, share, method.scale)])
                trainer.set_learning_rate(lr)
                _update(net, trainer, count, contexts, method)
                if len(pending) > LAG:
                    _read(pending.popleft(), meter)
                if settle is not None and settle(done):
                    read_all()
                yield done
        except Exception as error:
            lost = out_of_memory(error) is not None
            raise
        finally:
            if not lost:  # MXNet would wait forever for a step that found no memory or thread
                read_all()


def _differentiate(forward, cross_entropy, parts, share, scale):
    """Compute the gradients of [(images, labels)]; returns (images, [sum of loss, correct answers]) for each device."""
    if share != 1:
        parts = [(share * x + (1 - share) * reverse(x), y) for x, y in parts]
    for x, _ in parts:
        if wants_input_gradient(forward, x.context):
            x.attach_grad()
    with autograd.record():
        # float16 is too coarse for the loss and its sum.
        outputs = [forward(x).astype("float32", copy=False) for x, _ in parts]
        losses = [cross_entropy(output, y, share) for output, (_, y) in zip(outputs, parts)]
        heads = losses if scale is None or scale.value == 1 else [loss * scale.value for loss in losses]
    autograd.backward(heads)
    answers = [y if share >= .5 else reverse(y) for _, y in parts]
    # The host reads only two numbers for each device and step.
    return [(len(y), mx.nd.stack(loss, output.argmax(axis=1) == y).sum(axis=1))
            for loss, output, y in zip(losses, outputs, answers)]


def _update(net, trainer, images, contexts, method):
    """One step of the optimizer with the mean gradient over `images` images of each worker."""
    if method.scale is None:
        trainer.step(images)
    else:
        factor = method.scale.value
        trainer.allreduce_grads()
        finite = finite_gradients(net, contexts[0])  # the sum over all devices and workers, equal on each
        method.scale.follow(finite)
        if finite:
            trainer.update(images * factor)
    if method.accumulate > 1:
        net.collect_params().zero_grad()


def _read(results, meter):
    for images, sums in results:
        meter.add(images, *sums.asnumpy())


def evaluate(net, batches, contexts, labels, forward=None, team=None, told=lambda: None):
    """The Scores of net on batches of (images, labels, count); only the first `count` of a batch are real.

    Each worker of a team brings its own batches; all get the scores over all batches.

    labels : classes of the data; the net may have more outputs. Batches go to the contexts in turn.
    forward : forward(x) gives the logits from net's parameters; None for net itself. told : called after each batch.

    The host counts while the device computes the next batches. Raises Diverged if the net answers with NaN or infinity.
    """
    forward, dtype = forward or net, input_type(net)
    counts, pending = Counts(labels, told), collections.deque()

    def stage(item):
        index, (images, truth, count) = item
        context = contexts[index % len(contexts)]
        return context, array(images, context, dtype), np.asarray(truth[:count], np.int64)

    def read():
        output, truth = pending.popleft()
        counts.add(output.asnumpy()[:len(truth)], truth)

    with contextlib.closing(staged(enumerate(batches), stage, contexts)) as steps:
        for context, x, truth in steps:
            pending.append((forward(x.as_in_context(context)), truth))
            if len(pending) > LAG:
                read()
    while pending:
        read()
    restore_layout(net)
    return counts.scores(team.total if team is not None and team.size > 1 else None)
