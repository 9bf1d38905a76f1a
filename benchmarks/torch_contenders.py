"""What runs on PyTorch: the translated nets (backend.torch.graph), eager, compiled, compiled with bfloat16 autocast.

Compiled twins are channels-last, which is faster on CPUs. All start from the Gluon net's arrays and must agree with it
before they are timed; for autocast, the same twin must agree in float32.
"""
import contextlib

import torch
from torch.nn import functional

from backend.torch.graph import translate
from engine.data import in_memory

from . import contender
from .contender import CHECK_STEPS, TRAINING_MACS, Answers, Contender, OnBatch, OnEpochs

EVAL_BATCH = 250


class Twin:
    """A twin net ready to run: forward(x) for a torch batch."""

    def __init__(self, reference, compiled, bfloat16, freeze=False):
        self.net = translate(reference.graph(), reference.arrays())
        self.layout = torch.channels_last if compiled else torch.contiguous_format
        self.net.to(memory_format=self.layout)
        self.bfloat16 = bfloat16
        self.net.eval()
        with torch.no_grad():
            plain = self.net(self.batch(reference.images[:len(reference.logits)])).numpy()
        self.about = {"logits_differ_by": reference.compare_logits(plain), "torch_threads": torch.get_num_threads(),
                      "twin": ("torch.compile, channels-last" if compiled else "eager")
                      + (", bfloat16 autocast" if bfloat16 else "")}
        if compiled:
            from torch._inductor import config

            config.freezing = freeze  # weights become constants: BatchNorm is folded, weights are packed
        self.forward = torch.compile(self.net, dynamic=False) if compiled else self.net

    def batch(self, images):
        """NumPy images (N, 3, S, S) in the twin's layout."""
        return torch.from_numpy(images).to(memory_format=self.layout)

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16) if self.bfloat16 else contextlib.nullcontext()


class Trainer:
    """SGD as in the engine: Nesterov momentum, weight decay on all parameters; sums up loss and accuracy."""

    def __init__(self, twin):
        self.twin = twin
        self.optimizer = torch.optim.SGD(twin.net.parameters(), lr=contender.LEARNING_RATE,
                                         momentum=contender.MOMENTUM, nesterov=True,
                                         weight_decay=contender.WEIGHT_DECAY, fused=True)

    def train(self, batches):
        """Train on NumPy batches (images, labels). Returns the mean loss; the correct answers are counted as well."""
        self.twin.net.train()
        total, correct, images = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
        for inputs, labels in batches:
            x, y = self.twin.batch(inputs), torch.from_numpy(labels).long()
            with self.twin.autocast():
                logits = self.twin.forward(x)
                losses = functional.cross_entropy(logits.float(), y, reduction="none")
            self.optimizer.zero_grad()
            losses.mean().backward()
            self.optimizer.step()
            total += losses.detach().sum()
            correct += (logits.detach().argmax(1) == y).sum()
            images += len(y)
        return float(total) / images


class TrainStep(OnBatch):
    """A training step on a batch in memory."""

    def __init__(self, folder, compiled=False, bfloat16=False):
        super().__init__(folder, TRAINING_MACS)
        twin = Twin(self.reference, compiled, bfloat16)
        self.trainer = Trainer(twin)
        losses = [self.trainer.train([self.batch]) for _ in range(CHECK_STEPS)]
        self.about = twin.about
        if not bfloat16:  # autocast rounds to 8 bits on purpose
            self.about["losses_differ_by"] = self.reference.compare_losses(losses)

    def work(self, count):
        self.trainer.train(self.batch for _ in range(count))


class Epoch(OnEpochs):
    """Training and validation with this project's input pipeline and a PyTorch twin."""

    def __init__(self, folder, data_dir, steps, evaluated, compiled=False, bfloat16=False):
        super().__init__(folder, data_dir, steps, evaluated)
        self.score_batches = in_memory.EvalBatches(self.scored, EVAL_BATCH)
        self.twin = Twin(self.reference, compiled, bfloat16)
        self.trainer = Trainer(self.twin)
        self.about.update(self.twin.about)

    def unit(self):
        self.trainer.train(self.take())
        self.twin.net.eval()
        correct = 0
        with torch.no_grad(), self.twin.autocast():
            for images, labels, real in self.score_batches:
                answers = self.twin.forward(self.twin.batch(images)).argmax(1).numpy()
                correct += int((answers[:real] == labels[:real]).sum())


class Inference(Answers):
    """Inference; a compiled twin has frozen weights."""

    def __init__(self, folder, compiled=False, bfloat16=False):
        super().__init__(folder)
        reference = self.reference
        self.twin = Twin(reference, compiled, bfloat16, freeze=compiled)
        self.about = self.twin.about
        if bfloat16:
            self.about["bfloat16_differs_by"] = reference.distance(self.answer(self.batch[0])[:len(reference.logits)])
        else:
            self.about["logits_differ_by"] = reference.check(self.answer)

    def answer(self, images):
        with torch.no_grad(), self.twin.autocast():
            return self.twin.forward(self.twin.batch(images)).float().numpy()


class Gemm(Contender):
    """Product of two square matrices."""

    def __init__(self, size, bfloat16=False):
        self.factors = [torch.rand(size, size, dtype=torch.bfloat16 if bfloat16 else torch.float32) for _ in range(2)]
        self.macs = size**3
        self.about = {"torch_threads": torch.get_num_threads()}

    def unit(self):
        torch.mm(*self.factors)
