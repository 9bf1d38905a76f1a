"""A net in PyTorch as a Scorer and as a Program of backend.base."""
import contextlib
import logging

import numpy as np
import torch

from backend import base
from engine import runlog
from model import graph_file
from model.graph import Graph
from model.weights import load_params

from . import gates, placement
from .convert import to_torch
from .graph import gluon_names
from .loss import cross_entropy
from .optimizer import make_optimizer
from .resident import Residents
from .start import drawn

log = logging.getLogger(__name__)

NAME = f"PyTorch {torch.__version__} on the graph of the net"
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}  # products of convolutions and dense layers


class Scorer(base.Scorer):
    """net, a module, on its device, with its arrays channels-last, which convolutions are faster on."""

    dtype = "float32"

    def __init__(self, net, devices):
        self.net, self.devices, self.device = net.to(devices[0], memory_format=placement.LAYOUT), devices, devices[0]
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # events, pinned memory and NCCL take the current one, else GPU 0
        self.residents = Residents(self.device)

    @property
    def kind(self):
        return placement.kind(self.devices)

    def casting(self):
        """The context of a forward pass: its products are of the half type `dtype`."""
        if self.dtype not in HALF:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, HALF[self.dtype])

    def answers(self, batches):
        self.net.eval()
        with contextlib.closing(self._to_score(batches)) as staged:
            for images, truth in staged:
                with torch.no_grad(), self.casting():
                    logits = self.net(placement.moved(images, self.device))
                yield placement.Later(logits.float()).numpy, truth

    def _to_score(self, batches):
        def stage(item):
            images, truth, count = item
            return placement.array(images, self.device), np.asarray(truth[:count], np.int64)

        resident = self.residents.of(batches)
        return resident.in_order(batches.batch_size) if resident else self.staging(batches, stage)

    def logits(self, images):
        self.net.eval()
        with torch.no_grad():
            return self.net(torch.from_numpy(np.array(images)).to(self.device)).cpu().numpy().astype(np.float64)

    def gates(self, images):
        return gates.captured(self.net, self.device, images)


class Program(Scorer, base.Program):
    """A module in training by a Recipe, with the workers of a Team, one device a worker.

    dtype : of an Experiment. compiled : by torch.compile. source : where the net comes from, for the record.
    """

    def __init__(self, net, devices, recipe, team, dtype="float32", compiled=False, source=""):
        Scorer.__init__(self, net, devices)
        base.Program.__init__(self, recipe, dtype, team)
        self.source = source
        self.operators = NAME + ", compiled" * compiled
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.num_batches_tracked = None  # one operation less a layer and step
        team.broadcast(self.net)
        self.optimizer = make_optimizer(self.net, recipe)
        self.forward = self._compiled() if compiled else self.net

    def _compiled(self):
        # On a GPU with CUDA graphs, which launch a whole pass at once.
        return torch.compile(self.net, dynamic=False, mode="default" if self.kind == "cpu" else "reduce-overhead")

    def staged(self, steps):
        def stage(batch):
            rate, images, labels, share = batch
            return rate, placement.array(images, self.device), placement.array(labels, self.device, np.int64), share

        self.net.train()
        resident = self.residents.of(steps.batches)
        if resident:
            return ((rate, *resident.drawn(draws), share) for rate, draws, share in steps.draws())
        return self.staging(steps, stage)

    def step(self, rate, images, labels, share):
        images, labels = placement.moved(images, self.device), labels.to(self.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.recipe.accumulate
        sums = [self._differentiate(base.part(images, index, parts), base.part(labels, index, parts), share)
                for index in range(parts)]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        gradients = [weight.grad for group in self.optimizer.param_groups for weight in group["params"]]
        self.team.add(gradients)
        count = len(labels) * self.team.size
        if self.scale is None:
            self.optimizer.step(1 / count)
        else:
            # Waits for the gradients, which are the same on all workers.
            factor, finite = self.scale.value, bool(torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all())
            self.scale.follow(finite)
            if finite:
                self.optimizer.step(1 / (count * factor))
        return sums

    def _differentiate(self, images, labels, share):
        answers = labels if share >= .5 else labels.flip(0)
        if share != 1:
            images = share * images + (1 - share) * images.flip(0)
        with self.casting():
            logits = self.forward(images)
        losses = cross_entropy(logits, labels, self.recipe.label_smoothing, share)
        total = losses.sum()
        (total if self.scale is None else total * self.scale.value).backward()
        # Two numbers a part and step are all that the host ever reads.
        correct = (logits.detach().argmax(1) == answers).sum()
        return len(labels), placement.Later(torch.stack([total.detach(), correct.to(total.dtype)])).numpy

    def _tensors(self):
        """{Gluon's name: Parameter or buffer}."""
        state = self.net.state_dict(keep_vars=True)
        return {name: state[key] for key, name in gluon_names(state).items()}

    def weights(self):
        return {name: [tensor] for name, tensor in self._tensors().items()}

    def statistics(self):
        return {name: [tensor] for name, tensor in self._tensors().items() if not tensor.requires_grad}

    def momenta(self):
        if not self.recipe.momentum:
            return {}
        return {f"optimizer/{name}.0": [self.optimizer.momentum(tensor)] for name, tensor in self._tensors().items()
                if tensor.requires_grad}

    def read(self, place):
        return place.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()

    @torch.no_grad()
    def write(self, place, array):
        place.copy_(torch.from_numpy(np.array(array)))

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
    return Program(to_torch(net), devices, experiment.recipe, team, experiment.dtype, fused == "on", source)


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
