"""The measured groups with their variants. Names are GROUP/VARIANT, and --only searches them for text."""
import dataclasses
import itertools
from typing import Optional

from engine.experiment import Experiment
from engine.recipe import CIFAR_PAPER
from model.registry import CIFAR, complete_arguments
from support.threads import usable_cores

from .harness import ROOT, Group, Net, Variant

UNITS = {name: CIFAR.model(name) for name, part in CIFAR.parts.items()  # of Table III and Figures 7 and 8
         if part.color and name != "atac"}
OURS, PLAIN = "ours", "plain Gluon composition"
UNITS_ALONE = "fused units in the plain layout"
AUTHORS, AUTHORS_BARE = "authors' loop", "authors' loop, default process settings"
EAGER, COMPILED, BFLOAT16 = "PyTorch eager", "PyTorch compiled", "PyTorch compiled, bfloat16"
ONNX = "ONNX Runtime"


@dataclasses.dataclass(frozen=True)
class Scale:
    """The size of the measured work. steps and evaluated give an epoch's part; None for a whole epoch."""

    data_dir: str = str(ROOT / "data" / "cifar10-sample")
    workers: int = 2  # of the authors' loader
    batch: int = 128
    batches: tuple = (32, 64, 128, 256, 512)
    blocks: tuple = (1, 2, 3, 4, 5)
    imagenet_batches: tuple = (8, 8)  # training, inference
    imagenet_size: int = 224
    steps: Optional[int] = 10
    evaluated: Optional[int] = 250
    gemm: int = 2048
    copy_mib: int = 256
    profiled_steps: int = 10


QUICK = Scale(batch=4, batches=(2, 4), blocks=(1, 2), imagenet_batches=(1, 1), imagenet_size=64, steps=2, evaluated=20,
              gemm=128, copy_mib=4, profiled_steps=1)


def atac(blocks, batch, **settings):
    return net_of("atac_resnet20_v2", batch, blocks=blocks, **settings)


def net_of(model, batch, size=32, blocks=None, **settings):
    """A net at its defaults, except for `blocks`, in batches of so many images."""
    arguments = complete_arguments(model, {} if blocks is None else {"blocks": blocks})
    recipe = dataclasses.replace(CIFAR_PAPER, batch_size=batch)
    dataset = "cifar10" if size == 32 else "imagenet"
    return Net(Experiment(model, arguments, dataset, recipe, input_size=size), **settings)


def training(net):
    """This project's step, the plain composition, and PyTorch's twins."""
    return (Variant(OURS, "mxnet_contenders:TrainStep", {"fused": "auto"}, net),
            Variant(PLAIN, "mxnet_contenders:TrainStep", {"fused": "off"}, net),
            Variant(EAGER, "torch_contenders:TrainStep", {}, net),
            Variant(COMPILED, "torch_contenders:TrainStep", {"compiled": True}, net))


def layouts(net):
    """Two sizes of a fused region: BatchNorm and unit, or the whole net in blocks of channels."""
    return tuple(Variant(name, "mxnet_contenders:TrainStep", {"fused": fused}, net)
                 for name, fused in ((OURS, "auto"), (UNITS_ALONE, "units"), (PLAIN, "off")))


def bfloat16(module, net, **arguments):
    return Variant(BFLOAT16, f"torch_contenders:{module}", {"compiled": True, "bfloat16": True, **arguments}, net)


def step(net, scale):
    """Everything that trains: `training`, the authors' loop and bfloat16."""
    authors = Variant(AUTHORS, "mxnet_contenders:AuthorsStep",
                      {"data_dir": scale.data_dir, "workers": scale.workers}, net)
    return (*training(net), bfloat16("TrainStep", net), authors)


def epoch(net, scale):
    part = {"data_dir": scale.data_dir, "steps": scale.steps, "evaluated": scale.evaluated}
    by_the_authors = "mxnet_contenders:AuthorsEpoch", {**part, "workers": scale.workers}, net
    return (Variant(OURS, "mxnet_contenders:OurEpoch", part, net), Variant(AUTHORS, *by_the_authors),
            Variant(AUTHORS_BARE, *by_the_authors, tuned=False),
            Variant(COMPILED, "torch_contenders:Epoch", {**part, "compiled": True}, net),
            bfloat16("Epoch", net, **part))


def inference(net):
    return (Variant(OURS, "mxnet_contenders:OurInference", {}, net),
            Variant(PLAIN, "mxnet_contenders:PlainInference", {}, net),
            Variant("folded, oneDNN subgraphs", "mxnet_contenders:FoldedInference", {}, net),
            Variant(EAGER, "torch_contenders:Inference", {}, net),
            Variant(COMPILED, "torch_contenders:Inference", {"compiled": True}, net),
            bfloat16("Inference", net), Variant(ONNX, "onnx_contenders:Inference", {}, net))


def against_the_compilers(net):
    """This project and the fastest alternatives in float32."""
    variants = training(net) if net.training else inference(net)
    return tuple(variant for variant in variants if variant.name in (OURS, COMPILED, ONNX))


def ceilings(scale):
    variants = []
    for threads in (1, 2):
        name = f"{threads} thread{'s' * (threads > 1)}"
        variants += [
            Variant(f"memory copy, {name}", "ceilings:MemoryCopy", {"mib": scale.copy_mib}, threads=threads),
            Variant(f"float32 GEMM (NumPy), {name}", "ceilings:Gemm", {"size": scale.gemm}, threads=threads),
            Variant(f"float32 GEMM (PyTorch), {name}", "torch_contenders:Gemm", {"size": scale.gemm}, threads=threads),
            Variant(f"bfloat16 GEMM (PyTorch), {name}", "torch_contenders:Gemm",
                    {"size": scale.gemm, "bfloat16": True}, threads=threads)]
    return tuple(variants)


def costs(nets, label):
    """Our training steps of several nets as the variants of one group."""
    return tuple(Variant(f"{OURS}, {label}={value}", "mxnet_contenders:TrainStep", {"fused": "auto"}, net)
                 for value, net in nets)


def by_threads(net):
    return tuple(dataclasses.replace(variant, name=f"{variant.name}, threads={threads}", threads=threads)
                 for variant in training(net) if variant.name != EAGER for threads in (1, 2))


def at_once(net):
    """All cores: one training with all threads, and a training for each."""
    cores = usable_cores()
    return (Variant(f"1 run, threads={cores}", "mxnet_contenders:Runs", {"jobs": 1}, net, threads=cores),
            Variant(f"{cores} runs, threads=1", "mxnet_contenders:Runs", {"jobs": cores}, net, threads=1))


def profiles(net, steps):
    return tuple(Variant(name, "profile_step:Profile", {"fused": fused, "steps": steps}, net)
                 for name, fused in ((OURS, "auto"), (PLAIN, "off")))


def groups(scale):
    """All groups, in the order in which they are measured and shown."""
    atac_b1 = atac(1, scale.batch)
    pipeline = {"data_dir": scale.data_dir, "batch": scale.batch}
    imagenet_training, imagenet_inference = (
        net_of("atac_resnet50_v1b", batch, scale.imagenet_size, training=training, onnx=not training)
        for batch, training in zip(scale.imagenet_batches, (True, False)))
    for blocks in (1, 3, 5):
        yield Group(f"step/atac-b{blocks}", "training step", step(atac(blocks, scale.batch), scale))
    for unit, model in UNITS.items():
        yield Group(f"step/{unit}-b1", "training step", training(net_of(model, scale.batch, blocks=1)))
    for unit, model in UNITS.items():
        yield Group(f"step/{unit}-b3", "training step", against_the_compilers(net_of(model, scale.batch, blocks=3)))
        for blocks, batch in itertools.product((1, 3), (scale.batch, 1)):
            net = net_of(model, batch, blocks=blocks, training=False, onnx=True)
            yield Group(f"inference/{unit}-b{blocks}-n{batch}", "batch", against_the_compilers(net))
    for blocks in (1, 3):
        yield Group(f"layout/atac-b{blocks}", "training step", layouts(atac(blocks, scale.batch)))
    for blocks in (1, 3):
        yield Group(f"epoch/atac-b{blocks}", "part of an epoch" if scale.steps else "epoch",
                    epoch(atac(blocks, scale.batch), scale), warm=0)
    for batch in (scale.batch, 1):
        for blocks in (1, 3):
            yield Group(f"inference/atac-b{blocks}-n{batch}", "batch",
                        inference(atac(blocks, batch, training=False, onnx=True)))
    yield Group("imagenet/training", "training step",
                (*training(imagenet_training), bfloat16("TrainStep", imagenet_training)))
    yield Group("imagenet/inference", "batch", inference(imagenet_inference))
    yield Group("ceilings", "operation", ceilings(scale))
    yield Group("cost/blocks", "training step", costs([(b, atac(b, scale.batch)) for b in scale.blocks], "b"))
    yield Group("cost/batch", "training step", costs([(n, atac(1, n)) for n in scale.batches], "batch"))
    yield Group("cost/threads", "training step", by_threads(atac_b1))
    for blocks in (1, 3):
        yield Group(f"runs/atac-b{blocks}", "step of all runs", at_once(atac(blocks, scale.batch)))
    yield Group("pipeline", "batch", tuple(
        Variant(name, f"mxnet_contenders:{contender}", pipeline, threads=1)
        for name, contender in ((OURS, "OurPipeline"), (AUTHORS, "AuthorsPipeline"))))
    yield Group("profile/atac-b1", "training step", profiles(atac_b1, scale.profiled_steps), once=True)
    yield Group("samples", "training step", tuple(
        Variant(f"b={blocks}", "samples:Samples", {"fused": "auto", "steps": 10 * scale.profiled_steps},
                atac(blocks, scale.batch)) for blocks in (1, 3)), once=True)


def chosen(scale, text):
    """The groups whose GROUP/VARIANT contains text, with the variants that do."""
    found = []
    for group in groups(scale):
        variants = tuple(variant for variant in group.variants if text in f"{group.name}/{variant.name}")
        if variants:
            found.append(dataclasses.replace(group, variants=variants))
    return found
