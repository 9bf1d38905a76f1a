"""A Gluon net as a Scorer and as a Program of backend.base."""
import logging

import mxnet as mx
import numpy as np

from backend import base
from engine import runlog
from engine.steps import LossScale
from model.weights import load_params
from ops.nag import update_operator

from . import gates, loop, placement, state
from .fused import fuse
from .inference import optimize
from .optimizer import make_trainer

log = logging.getLogger(__name__)


class Scorer(base.Scorer):
    """net on its contexts. forward : forward(x) gives the logits from net's parameters; None for net itself."""

    def __init__(self, net, contexts, forward=None):
        self.net, self.contexts, self.forward = net, contexts, forward or net

    @property
    def kind(self):
        return placement.kind(self.contexts)

    def score(self, batches, labels, told=lambda: None):
        return loop.evaluate(self.net, batches, self.contexts, labels, self.forward, told=told)

    def logits(self, images):
        return self.forward(mx.nd.array(images, self.contexts[0])).asnumpy().astype(np.float64)


class Program(Scorer, base.Program):
    """An initialized net in training by the recipe of an Experiment, with the workers of a Team.

    operators : what computes the net, in words. update_all : see optimizer.NAG.
    """

    def __init__(self, net, contexts, experiment, team, forward=None, operators="", update_all=None):
        super().__init__(net, contexts, forward)
        self.team, self.operators = team, operators
        team.broadcast(net)
        self.trainer = make_trainer(net, experiment.recipe, team.kvstore, experiment.dtype, update_all, team)
        self.method = loop.Method(experiment.recipe.label_smoothing, experiment.recipe.accumulate,
                                  LossScale() if experiment.dtype == "float16" else None)

    @property
    def scale(self):
        return self.method.scale

    @scale.setter
    def scale(self, value):
        self.method.scale = value

    def steps(self, steps, meter, settle=None):
        return loop.train_steps(self.net, self.trainer, steps, self.contexts, meter, self.forward, self.method, settle)

    def check(self):
        state.check_weights(self.net)

    def score(self, batches, labels, told=lambda: None):
        """As Scorer.score, with the mean of all devices' BatchNorm statistics; each worker brings its own batches."""
        state.average_running_statistics(self.net, self.team)
        return loop.evaluate(self.net, batches, self.contexts, labels, self.forward, self.team, told)

    def gates(self, images):
        mode = "hybrid" if self.net._active else "imperative"
        found = gates.captured(self.net, self.contexts, images)
        placement.set_mode(self.net, mode)
        state.restore_layout(self.net)
        return found

    def arrays(self):
        return state.arrays_of(self.net, self.trainer, self.team)

    def forms(self):
        return state.forms_of(self.net, self.trainer, self.team)

    def restore(self, arrays):
        state.restore(arrays, self.net, self.trainer, self.team)

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
    return Program(net, contexts, experiment, team, forward, operators, update_operator(fused))


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
