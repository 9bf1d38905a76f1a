"""A Gluon net as a Scorer and as a Program of backend.base."""
import contextlib
import logging

import mxnet as mx
import numpy as np
from mxnet import autograd

from backend import base
from engine import runlog
from model.weights import load_params
from ops.nag import update_operator

from . import gates, placement
from .fused import fuse
from .inference import optimize
from .loss import cross_entropy, finite_gradients, reverse, wants_input_gradient
from .optimizer import make_trainer, optimizer_state

log = logging.getLogger(__name__)


class Scorer(base.Scorer):
    """net on its contexts. forward : forward(x) gives the logits from net's parameters; None for net itself."""

    def __init__(self, net, contexts, forward=None):
        self.net, self.contexts, self.forward = net, contexts, forward or net

    @property
    def kind(self):
        return placement.kind(self.contexts)

    def answers(self, batches):
        """As base.Scorer.answers; batches go to the contexts in turn."""
        dtype = placement.input_type(self.net)

        def stage(item):
            index, (images, truth, count) = item
            context = self.contexts[index % len(self.contexts)]
            return context, placement.array(images, context, dtype), np.asarray(truth[:count], np.int64)

        with contextlib.closing(self.staging(enumerate(batches), stage)) as staged:
            for context, x, truth in staged:
                yield self.forward(x.as_in_context(context)).asnumpy, truth
        placement.restore_layout(self.net)

    def logits(self, images):
        return self.forward(mx.nd.array(images, self.contexts[0])).asnumpy().astype(np.float64)

    def gates(self, images):
        mode = "hybrid" if self.net._active else "imperative"
        found = gates.captured(self.net, self.contexts, images)
        placement.set_mode(self.net, mode)
        placement.restore_layout(self.net)
        return found


class Program(Scorer, base.Program):
    """An initialized net in training by a Recipe, with the workers of a Team.

    operators : what computes the net, in words. update_all : see optimizer.NAG.
    """

    def __init__(self, net, contexts, recipe, team, dtype="float32", forward=None, operators="", update_all=None):
        Scorer.__init__(self, net, contexts, forward)
        base.Program.__init__(self, recipe, dtype, team)
        self.operators = operators
        team.broadcast(net)
        self.trainer = make_trainer(net, recipe, team.kvstore, dtype, update_all, team)

    def staged(self, steps):
        dtype = placement.input_type(self.net)

        def stage(batch):
            rate, images, labels, share = batch
            return rate, placement.shares(images, labels, self.contexts, dtype), share

        return self.staging(steps, stage)

    def step(self, rate, shares, share):
        """One update by the shares of a batch [(context, images, labels)].

        share : of each image, if it is mixed with the image at the same place from the end of its device's batch.
        """
        shares = [(x.as_in_context(context), y.as_in_context(context)) for context, x, y in shares]
        parts = self.recipe.accumulate
        sums = []
        for index in range(parts):
            sums += self._differentiate([(base.part(x, index, parts), base.part(y, index, parts)) for x, y in shares],
                                        share)
        self.trainer.set_learning_rate(rate)
        self._update(sum(len(y) for _, y in shares))
        return sums

    def _differentiate(self, shares, share):
        """Compute the gradients of [(images, labels)], one pair for each device; returns what `step` does."""
        if share != 1:
            shares = [(share * x + (1 - share) * reverse(x), y) for x, y in shares]
        for x, _ in shares:
            if wants_input_gradient(self.forward, x.context):
                x.attach_grad()
        with autograd.record():
            # float16 is too coarse for the loss and its sum.
            outputs = [self.forward(x).astype("float32", copy=False) for x, _ in shares]
            losses = [cross_entropy(output, y, self.recipe.label_smoothing, share)
                      for output, (_, y) in zip(outputs, shares)]
            factor = 1 if self.scale is None else self.scale.value
            heads = losses if factor == 1 else [loss * factor for loss in losses]
        autograd.backward(heads)
        answers = [y if share >= .5 else reverse(y) for _, y in shares]
        # The host reads only two numbers for each device and step.
        return [(len(y), mx.nd.stack(loss, output.argmax(axis=1) == y).sum(axis=1).asnumpy)
                for loss, output, y in zip(losses, outputs, answers)]

    def _update(self, images):
        """One step of the optimizer with the mean gradient over `images` images of each worker."""
        if self.scale is None:
            self.trainer.step(images)
        else:
            factor = self.scale.value
            self.trainer.allreduce_grads()
            finite = finite_gradients(self.net, self.contexts[0])  # the sum over all devices and workers, equal on each
            self.scale.follow(finite)
            if finite:
                self.trainer.update(images * factor)
        if self.recipe.accumulate > 1:
            self.net.collect_params().zero_grad()

    def finished(self):
        # MXNet's engine does not know that a compiled net's backward pass writes running statistics; it would let
        # others read them too early.
        mx.nd.waitall()

    def _parameters(self):
        return self.net._collect_params_with_prefix()

    def _states(self):
        """{name: [(momentum, master weight) on each device]} of the optimizer."""
        return {name: [optimizer_state(self.trainer, parameter, device) for device in range(len(self.contexts))]
                for name, parameter in self._parameters().items() if parameter.grad_req != "null"}

    def weights(self):
        places = {name: parameter.list_data() for name, parameter in self._parameters().items()}
        for name, states in self._states().items():
            places[name] = [master for _, master in states if master is not None] + places[name]
        return places

    def statistics(self):
        return {name: parameter.list_data() for name, parameter in self._parameters().items()
                if parameter.grad_req == "null"}

    def momenta(self):
        return {f"optimizer/{name}.0": [momentum for momentum, _ in states]
                for name, states in self._states().items() if states[0][0] is not None}

    def read(self, place):
        return place.astype("float32", copy=False).asnumpy()

    def write(self, place, array):
        place[:] = mx.nd.array(array, dtype=place.dtype)

    def environment(self):
        return {"mxnet": mx.__version__, "contexts": str(self.contexts),
                "gpus": runlog.gpu_names() if self.kind == "gpu" else []}


def prepare(net, experiment, contexts, team, fused="auto", mode="hybrid", weights=None, ignore_output=False):
    """The Program that trains a new net: initialized by the experiment's seed, in the fastest form that fits.

    fused, mode : the values of --fused and --mode. weights : a parameter file to start from, or None. ignore_output :
    do not load its last layer. Raises InputError for weights that do not fit.
    """
    placement.initialize(net, experiment.seed, contexts)
    if weights:
        load_params(net, weights, contexts, ignore_output, log.info)
    if experiment.recipe.accumulate > 1:  # the fused operators cannot add up gradients
        forward, operators = net, "plain Gluon operators, which can add up gradients"
    else:
        forward, operators = fuse(net, fused)
    placement.set_mode(forward, mode)
    return Program(net, contexts, experiment.recipe, team, experiment.dtype, forward, operators, update_operator(fused))


def scorer(net, contexts, example, mode="hybrid", fused="auto"):
    """The Scorer of a net that has its weights on the CPU, and a sentence about the form in which it is computed.

    example : NumPy images (N, 3, S, S) like those to come; None leaves the net as it is.
    """
    if contexts != [mx.cpu()]:
        net.collect_params().reset_ctx(contexts)
    placement.set_mode(net, mode)
    if mode != "hybrid" or example is None:
        return Scorer(net, contexts), "operator by operator" if mode != "hybrid" else "the plain net"
    forward, form = optimize(net, mx.nd.array(example, contexts[0]), fused)
    return Scorer(net, contexts, forward), form
