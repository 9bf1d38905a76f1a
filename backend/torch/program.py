"""A net in PyTorch as a Scorer and as a Program of backend.base."""
import logging

import numpy as np
import torch

from backend import base
from engine import runlog
from engine.steps import LossScale
from model import graph_file
from model.graph import Graph
from model.weights import load_params

from . import gates, loop, placement, state
from .convert import to_torch
from .optimizer import make_optimizer
from .resident import Residents
from .start import drawn

log = logging.getLogger(__name__)

NAME = f"PyTorch {torch.__version__} on the graph of the net"


class Scorer(base.Scorer):
    """net, a module, on its device, with its arrays channels-last, which convolutions are faster on."""

    def __init__(self, net, devices):
        self.net, self.devices, self.device = net.to(devices[0], memory_format=placement.LAYOUT), devices, devices[0]
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # events, pinned memory and NCCL take the current one, else GPU 0
        self.residents = Residents(self.device)

    @property
    def kind(self):
        return placement.kind(self.devices)

    def score(self, batches, labels, told=lambda: None):
        return loop.evaluate(self.net, batches, self.device, labels, self.residents.of(batches), told=told)

    def logits(self, images):
        self.net.eval()
        with torch.no_grad():
            return self.net(torch.from_numpy(np.array(images)).to(self.device)).cpu().numpy().astype(np.float64)


class Program(Scorer, base.Program):
    """A module in training by the recipe of an Experiment, with the workers of a Team.

    compiled : by torch.compile. source : where the net comes from, for the record.
    """

    def __init__(self, net, devices, experiment, team, compiled=False, source=""):
        super().__init__(net, devices)
        self.source = source
        self.operators = NAME + ", compiled" * compiled
        self.team = team
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.num_batches_tracked = None  # one operation less a layer and step
        team.broadcast(self.net)
        recipe = experiment.recipe
        self.optimizer = make_optimizer(self.net, recipe)
        self.trainer = loop.Trainer(self.net, self.optimizer, self.device, team, recipe.label_smoothing,
                                    recipe.accumulate, LossScale() if experiment.dtype == "float16" else None,
                                    self._compiled() if compiled else self.net, experiment.dtype)

    def _compiled(self):
        # On a GPU with CUDA graphs, which launch a whole pass at once.
        return torch.compile(self.net, dynamic=False, mode="default" if self.kind == "cpu" else "reduce-overhead")

    @property
    def scale(self):
        return self.trainer.scale

    @scale.setter
    def scale(self, value):
        self.trainer.scale = value

    def steps(self, steps, meter, settle=None):
        return loop.train_steps(self.trainer, steps, meter, self.residents.of(steps.batches), settle)

    def score(self, batches, labels, told=lambda: None):
        """As Scorer's, with the mean of all workers' BatchNorm statistics; each worker brings its own batches."""
        state.average_running_statistics(self.net, self.team)
        return loop.evaluate(self.net, batches, self.device, labels, self.residents.of(batches), self.trainer.casting,
                             self.team, told)

    def gates(self, images):
        return gates.captured(self.net, self.devices, images)

    def check(self):
        state.check_weights(self.net)

    def arrays(self):
        return state.arrays_of(self.net, self.optimizer, self.team)

    def forms(self):
        return state.forms_of(self.net, self.optimizer, self.team)

    def restore(self, arrays):
        state.restore(arrays, self.net, self.optimizer, self.team)

    def environment(self):
        return {"torch": torch.__version__, "net": self.source, "contexts": f"[{self.device}]",
                "gpus": runlog.gpu_names() if self.kind == "gpu" else []}


def exact(dtype="float32"):
    """Compute float32 in float32 on GPUs, too: PyTorch would round convolutions to TF32, which dtype 'tf32' allows."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"


def prepare(net, experiment, devices, team, fused="auto", mode="hybrid", weights=None, ignore_output=False):
    """The Program that trains a new net: a Gluon net, or a Graph (model.graph).

    A Gluon net is initialized by MXNet from the experiment's seed, as the other backend does it; the weights of a Graph
    are drawn by NumPy from the same distributions. fused : 'on' compiles the net, which takes a minute or two. mode :
    of the Gluon backend, without meaning here. weights : a parameter file to start from, or None; ignore_output: all of
    it except the last layer. Raises InputError for weights that do not fit.
    """
    exact(experiment.dtype)
    if isinstance(net, Graph):
        net.arrays = drawn(net, experiment.seed)
        source = f"{graph_file.FILE.name}; a new run's first weights are drawn by NumPy"
    else:
        _initialize(net, experiment.seed)
        source = "Gluon"
    if weights:
        load_params(net, weights, None, ignore_output, log.info)
    return Program(to_torch(net), devices, experiment, team, fused == "on", source)


def _initialize(net, seed):
    """Give a Gluon net MXNet's first weights of a seed."""
    import mxnet as mx

    from backend.gluon.placement import initialize

    initialize(net, seed, [mx.cpu()])


def scorer(net, devices, example, mode="hybrid", fused="auto"):
    """The Scorer of a net (Gluon's or a Graph) that has its weights, and a sentence about how it is computed.

    example, mode, fused : of the Gluon backend, without meaning here.
    """
    exact()
    return Scorer(to_torch(net), devices), NAME
