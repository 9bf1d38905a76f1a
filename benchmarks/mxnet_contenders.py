# ruff: noqa: E402 - the process is prepared before MXNet loads
"""Contenders on MXNet: this project as its scripts run it, the plain composition, and the authors' loop."""
import functools
import json
import os
import subprocess
import sys
import time
from itertools import cycle, islice

from backend.gluon import inference, placement
from backend.gluon.distributed import Team
from backend.gluon.fusable import blocks_in
from backend.gluon.fused import Fused
from backend.gluon.inside import with_units
from backend.gluon.program import Program
from backend.gluon.symbol_graph import SymbolGraph
from engine.data import cifar, cifar_files, in_memory
from engine.experiment import Experiment
from engine.recipe import Recipe
from engine.steps import Meter
from model import fuse, get_model
from model.complexity import count
from model.graph import graph_of
from model.weights import set_params
from ops import loader
from ops.nag import update_operator
from support import python, runtime

from . import contender
from .contender import CHECK_STEPS, TRAINING_MACS, Answers, Contender, NotMeasured, OnBatch, OnEpochs, Reference

runtime.prepare()

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

CPU = [mx.cpu()]
CHECK_IMAGES = 16


def program_of(net, batch, forward=None, fused="off", dtype="float32", contexts=CPU):
    """The engine's Program with a benchmark's recipe; fused is the flag --fused, for the update."""
    recipe = Recipe(epochs=1, batch_size=batch, lr=contender.LEARNING_RATE, momentum=contender.MOMENTUM,
                    wd=contender.WEIGHT_DECAY)
    return Program(net, contexts, recipe, Team("device"), dtype, forward, update_all=update_operator(fused))


class PlainNet(Contender):
    """Writes the folder of a Reference: weights, a batch of noise, and the plain net's logits and losses.

    BatchNorms get other numbers than their initial ones, so that agreement means something.
    """

    def __init__(self, folder, experiment, training, onnx):
        run = Experiment.from_json(experiment)
        batch, size = run.recipe.batch_size, run.input_size
        net = get_model(run.model, **run.net)
        placement.initialize(net, 0, CPU)
        images, labels = noise(max(batch, CHECK_IMAGES), size, run.classes)
        _unsettle(net, images[:CHECK_IMAGES])
        logits = net(mx.nd.array(images[:CHECK_IMAGES])).asnumpy()
        arrays = {name: parameter.data().asnumpy() for name, parameter in net._collect_params_with_prefix().items()}
        about = {"model": run.model, "arguments": run.net, "batch": batch, "size": size,
                 "macs": count(net, (3, size, size)).macs}
        losses = []
        if training:
            losses = training_losses(program_of(net, batch), images[:batch], labels[:batch])
        Reference.write(folder, about, arrays, graph_of(net).text, images=images, labels=labels, logits=logits,
                        losses=losses)
        if onnx:
            _export(load(Reference(folder)), os.path.join(folder, "net.onnx"), (batch, 3, size, size))


def noise(images, size, classes):
    """Images float32 (N, 3, size, size) of noise and labels int32 (N,)."""
    random = np.random.RandomState(0)
    return (random.standard_normal((images, 3, size, size)).astype(np.float32),
            random.randint(0, classes, images).astype(np.int32))


def _unsettle(net, images):
    """Give BatchNorms numbers as in a half-trained net: different gammas and betas, statistics near the images'.

    With unrelated statistics a deep net's numbers would grow until rounding decides them.
    """
    random = np.random.RandomState(0)
    parameters = net._collect_params_with_prefix()
    _scatter(parameters, random, gamma=(0.7, 1.3), beta=(0.9, 1.1))
    norms = [block for block in blocks_in(net) if isinstance(block, gluon.nn.BatchNorm)]
    momenta = [block._kwargs["momentum"] for block in norms]
    for block in norms:
        block._kwargs["momentum"] = 0.0  # one pass makes the statistics the batch's own
    x = mx.nd.array(images)
    x.attach_grad()  # without it the first BatchNorm would not move on a CPU
    with autograd.record():
        output = net(x)
    output.backward()
    mx.nd.waitall()
    for block, momentum in zip(norms, momenta):
        block._kwargs["momentum"] = momentum
    _scatter(parameters, random, running_mean=(0.9, 1.1), running_var=(0.8, 1.25))


def _scatter(parameters, random, **ranges):
    """Multiply the arrays of these kinds by random numbers within a range; betas, which are 0, become them minus 1."""
    for name, parameter in parameters.items():
        kind = name.rpartition(".")[2]
        if kind in ranges and (parameter.grad_req != "null" or kind.startswith("running")):
            factor = mx.nd.array(random.uniform(*ranges[kind], parameter.shape))
            parameter.set_data(factor - 1 if kind == "beta" else parameter.data() * factor)


def _export(net, path, shape):
    """Write net as ONNX. Without the package it does nothing, and ONNX Runtime's contender says so."""
    if python.version_of("onnx") is None:
        return
    from mxnet import onnx as exporter

    for block in blocks_in(net):
        # The exporter drops fix_gamma, so a BatchNorm without gamma would use its stored gamma.
        if isinstance(block, gluon.nn.BatchNorm) and block._kwargs.get("fix_gamma"):
            block.gamma.set_data(mx.nd.ones(block.gamma.shape))
    symbol = net(mx.sym.Variable("data"))
    parameters = {name: parameter.data() for name, parameter in net.collect_params().items()}
    exporter.export_model(symbol, parameters, [shape], [np.float32], str(path))


def load(reference):
    """The net of a Reference with its arrays."""
    net = get_model(reference.about["model"], **reference.about["arguments"])
    set_params(net, reference.arrays(), reference.folder, CPU)
    return net


def training_losses(program, images, labels):
    """Mean losses of CHECK_STEPS steps on one batch."""
    losses = []
    for _ in range(CHECK_STEPS):
        meter = Meter()
        train(program, [(images, labels)], meter)
        losses.append(meter.loss)
    return losses


def train(program, batches, meter):
    """The engine's own loop over batches of (images, labels)."""
    fed = ((contender.LEARNING_RATE, images, labels, 1.0) for images, labels in batches)
    for _ in program.steps(fed, meter):
        pass


def compiled(net, fused):
    """(forward, sentence): net with static memory, and fused operators as --fused says; "units" fuses units alone."""
    if fused == "units":
        loader.load()
        forward = Fused(net, with_units(net, training=True), with_units(net, training=False))
        sentence = "fused C++ operators for the units alone"
    else:
        forward, sentence = fuse(net, fused)
    placement.set_mode(forward, "hybrid")
    return forward, sentence


# ---- Training steps

class TrainStep(OnBatch):
    """A step of train_cifar.py on a batch that lies in memory; fused as in `compiled`."""

    def __init__(self, folder, fused):
        super().__init__(folder, TRAINING_MACS)
        net = load(self.reference)
        forward, sentence = compiled(net, fused)
        self.program = program_of(net, self.images, forward, fused)
        losses = training_losses(self.program, *self.batch)
        self.about = {"path": sentence, "losses_differ_by": self.reference.compare_losses(losses)}

    def work(self, count):
        train(self.program, islice(cycle([self.batch]), count), Meter())


class Runs(TrainStep):
    """Steps of several trainings at once, each in a process of its own, as `reproduce run --jobs` trains them."""

    def __init__(self, folder, jobs):
        super().__init__(folder, "auto")
        self.images, self.macs = jobs * self.images, jobs * self.macs
        self.others = [subprocess.Popen([sys.executable, "-m", "benchmarks.worker"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True) for _ in range(jobs - 1)]
        self.ask({"do": "make", "contender": "mxnet_contenders:TrainStep",
                  "arguments": {"folder": str(folder), "fused": "auto"}})

    def ask(self, order, meanwhile=lambda: None):
        """Give every other process an order, work meanwhile, and wait for all."""
        for other in self.others:
            print(json.dumps(order), file=other.stdin, flush=True)
        meanwhile()
        for other in self.others:
            answer = json.loads(other.stdout.readline())
            if "not_measured" in answer:
                raise NotMeasured(answer["not_measured"])

    def work(self, count):
        self.ask({"do": "measure", "warm": 0, "count": count}, functools.partial(super().work, count))


class AuthorsLoader:
    """Images one by one through Gluon's transforms, in worker processes, with the authors' augmentation or without."""

    def __init__(self, split, batch, workers, augment):
        # GluonCV refuses to load beside PyTorch 2 and needs none.
        sys.modules.setdefault("torch", None)
        from gluoncv.data.transforms import RandomCrop  # what the authors pad and crop with

        transforms = gluon.data.vision.transforms
        steps = [transforms.ToTensor(), transforms.Normalize(in_memory.MEAN, in_memory.STD)]
        if augment:
            steps[:0] = [RandomCrop(cifar_files.SIDE, pad=in_memory.PAD), transforms.RandomFlipLeftRight()]
        # The layout of Gluon's own CIFAR10: height, width, channels.
        images = mx.nd.array(np.ascontiguousarray(split.images.transpose(0, 2, 3, 1)), dtype="uint8")
        data = gluon.data.ArrayDataset(images, split.labels).transform_first(transforms.Compose(steps))
        self.batches = RandomBatches(len(split), batch)
        self.loader = gluon.data.DataLoader(data, batch_sampler=self.batches, num_workers=workers)

    def take(self, steps):
        """Iterate over `steps` batches; nothing is prepared beyond them."""
        self.batches.steps = steps
        return iter(self.loader)


class AuthorsLoop:
    """Training as in the authors' script: plain hybridize(), and the host waits for every batch's metrics."""

    def __init__(self, net):
        self.net, self.loss = net, gluon.loss.SoftmaxCrossEntropyLoss()
        self.trainer = gluon.Trainer(
            net.collect_params(), "nag", {"learning_rate": contender.LEARNING_RATE, "momentum": contender.MOMENTUM,
                                          "wd": contender.WEIGHT_DECAY})
        net.hybridize()

    def train(self, batches):
        """Train on batches. Returns the time at which the first batch had arrived."""
        arrived, metric, total = None, mx.metric.Accuracy(), 0.0
        for images, labels in batches:
            arrived = arrived or time.perf_counter()
            images, labels = _loaded(images), _loaded(labels)
            with autograd.record():
                output = self.net(images)
                loss = self.loss(output, labels)
            loss.backward()
            self.trainer.step(len(labels))
            total += loss.mean().asscalar()
            metric.update(labels, output)
        mx.nd.waitall()
        return arrived

    def evaluate(self, batches):
        metric = mx.metric.Accuracy()
        for images, labels in batches:
            metric.update(_loaded(labels), self.net(_loaded(images)))
        return metric.get()


def _loaded(array):
    """The authors' way to the device, also from the memory that worker processes share."""
    return gluon.utils.split_and_load(array, CPU)[0]


class RandomBatches(gluon.data.Sampler):
    """`steps` batches of random indices, so that the loader has nothing more to prepare when a turn ends."""

    def __init__(self, length, batch):
        self.length, self.batch, self.steps = length, batch, 1

    def __iter__(self):
        order = np.random.permutation(self.length)
        return iter([np.take(order, range(step * self.batch, (step + 1) * self.batch), mode="wrap").tolist()
                     for step in range(self.steps)])

    def __len__(self):
        return self.steps


class AuthorsStep(OnBatch):
    """A batch of the authors' loop, timed from the arrival of the first batch."""

    def __init__(self, folder, data_dir, workers):
        super().__init__(folder, TRAINING_MACS)
        self.about = {"loader_workers": workers}
        self.loader = AuthorsLoader(cifar.load("cifar10", data_dir).train, self.images, workers, augment=True)
        self.loop = AuthorsLoop(load(self.reference))

    def measure(self, count):
        arrived = self.loop.train(self.loader.take(count))
        return (time.perf_counter() - arrived) / count

    def work(self, count):
        self.loop.train(self.loader.take(count))


# ---- Epochs

class OurEpoch(OnEpochs):
    """Training and validation as in the engine, including the input pipeline."""

    def __init__(self, folder, data_dir, steps, evaluated):
        super().__init__(folder, data_dir, steps, evaluated)
        self.score_batches = in_memory.EvalBatches(self.scored, in_memory.CPU_BATCH)
        net = load(self.reference)
        forward, self.about["path"] = compiled(net, "auto")
        self.program = program_of(net, self.batch, forward, "auto")

    def unit(self):
        train(self.program, self.take(), Meter())
        self.program.score(self.score_batches, 10)


class AuthorsEpoch(OnEpochs):
    """The same numbers of images, trained and validated as in the authors' script."""

    def __init__(self, folder, data_dir, steps, evaluated, workers):
        super().__init__(folder, data_dir, steps, evaluated)
        self.about["loader_workers"] = workers
        self.loader = AuthorsLoader(self.data.train, self.batch, workers, augment=True)
        self.score_loader = AuthorsLoader(self.scored, self.batch, workers, augment=False)
        self.loop = AuthorsLoop(load(self.reference))

    def unit(self):
        self.loop.train(self.loader.take(self.steps))
        self.loop.evaluate(self.score_loader.take(-(-len(self.scored) // self.batch)))


# ---- Input pipelines

class _OneCore(Contender):
    about = {"cores": 1}

    def __init__(self, batch):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        self.images = batch


class OurPipeline(_OneCore):
    """Augmented batches of engine.data.in_memory, made in the process itself."""

    def __init__(self, data_dir, batch):
        super().__init__(batch)
        batches = in_memory.TrainBatches(cifar.load("cifar10", data_dir).train, batch, seed=0)
        self.stream = (made for epoch in range(10**9) for made in batches.epoch(epoch))

    def work(self, count):
        for _ in islice(self.stream, count):
            pass


class AuthorsPipeline(_OneCore):
    """Batches of the authors' loader, made in the process itself."""

    def __init__(self, data_dir, batch):
        super().__init__(batch)
        self.loader = AuthorsLoader(cifar.load("cifar10", data_dir).train, batch, 0, augment=True)

    def work(self, count):
        for _ in self.loader.take(count):
            pass
        mx.nd.waitall()


# ---- Inference

class OurInference(Answers):
    """The default form of evaluate.py; subclasses choose another form of the net."""

    form = staticmethod(inference.optimize)  # (callable, sentence) of a net, for batches like an example

    def __init__(self, folder):
        super().__init__(folder)
        self.forward, sentence = self.form(load(self.reference), mx.nd.array(self.batch[0]))
        self.about = {"path": sentence, "logits_differ_by": self.reference.check(self.answer)}

    def answer(self, images):
        return inference.predict(self.forward, images)


class PlainInference(OurInference):
    """The net itself, compiled with static memory."""

    def form(self, net, example):
        return compiled(net, "off")


class FoldedInference(OurInference):
    """BatchNorm folded into convolutions, and oneDNN's fused operators."""

    def form(self, net, example):
        graph = inference.partitioned(SymbolGraph.of(net).fold(), example)
        return inference.InferenceNet(graph), "BatchNorms folded, oneDNN's fused operators"
