"""One epoch of training, and scores over images, on one device."""
import collections
import contextlib

import numpy as np
import torch

from engine.steps import LAG, Counts
from support.errors import out_of_memory

from .placement import Later, array, moved, staged

HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}  # products of convolutions and dense layers


def cross_entropy(logits, labels, smoothing=0.0, share=1.0):
    """Cross entropy of logits and labels, one number (nats) an image, with smoothed and with mixed labels.

    smoothing: this share of the target is spread evenly over all outputs, the label's own included [Szegedy et al.
    2016]. share: what is left of the label if images were mixed; the rest is the label of the image at the same
    place from the end.
    """
    scores = torch.log_softmax(logits.float(), 1)  # float16 logits are too coarse for a loss

    def of(labels):
        return scores.gather(1, labels[:, None])[:, 0]

    own = of(labels) if share == 1 else share * of(labels) + (1 - share) * of(labels.flip(0))
    return -own if not smoothing else -((1 - smoothing) * own + smoothing * scores.mean(1))


class Trainer:
    """A net, the forward pass that computes it, its optimizer and the recipe of a step, on one device a worker.

    team : adds the gradients over its workers, which bring as many images each. smoothing : of the labels. accumulate :
    equal parts of a batch, one after the other. scale : a LossScale, or None. dtype : of an Experiment.
    """

    def __init__(self, net, optimizer, device, team, smoothing=0.0, accumulate=1, scale=None, forward=None,
                 dtype="float32"):
        self.net, self.optimizer, self.device, self.forward = net, optimizer, device, forward or net
        self.team = team
        self.smoothing, self.accumulate, self.scale, self.dtype = smoothing, accumulate, scale, dtype

    def step(self, rate, images, labels, share):
        """One update. Returns [(images, Later of the sums of loss and of correct answers)] of the parts."""
        self.optimizer.zero_grad(set_to_none=True)
        edges = [len(labels) * part // self.accumulate for part in range(self.accumulate + 1)]
        sums = [self._differentiate(images[start:end], labels[start:end], share)
                for start, end in zip(edges, edges[1:])]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        gradients = [weight.grad for group in self.optimizer.param_groups for weight in group["params"]]
        self.team.add(gradients)
        images = len(labels) * self.team.size
        if self.scale is None:
            self.optimizer.step(1 / images)
        else:
            # Waits for the gradients, which are the same on all workers.
            factor, finite = self.scale.value, bool(torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all())
            self.scale.follow(finite)
            if finite:
                self.optimizer.step(1 / (images * factor))
        return sums

    def _differentiate(self, images, labels, share):
        answers = labels if share >= .5 else labels.flip(0)
        if share != 1:
            images = share * images + (1 - share) * images.flip(0)
        with self.casting():
            logits = self.forward(images)
        losses = cross_entropy(logits, labels, self.smoothing, share)
        total = losses.sum()
        (total if self.scale is None else total * self.scale.value).backward()
        # Two numbers a part and step are all that the host ever reads.
        correct = (logits.detach().argmax(1) == answers).sum()
        return len(labels), Later(torch.stack([total.detach(), correct.to(total.dtype)]))

    def casting(self):
        """The context of a forward pass: its products are of the half type `dtype`."""
        if self.dtype not in HALF:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, HALF[self.dtype])


def train_steps(trainer, steps, meter, resident=None, settle=None):
    """Train on Steps (engine.steps); yields (after each step) the steps done.

    resident : the Images of the batches on the device, if they lie there.
    settle : called after each step with the steps done; if it returns True, meter is brought up to date before they are
        yielded: the caller saves there.

    Accuracy counts answers that are the image's label, or the one with the larger share. meter lags behind by LAG steps
    and is complete when the generator ends, also when it is closed early. Raises Diverged if a loss is not finite.
    """
    pending, device = collections.deque(), trainer.device

    def stage(batch):
        rate, images, labels, share = batch
        return rate, array(images, device), array(labels, device, np.int64), share

    def drawn():
        for rate, draws, share in steps.draws():
            yield (rate, *resident.drawn(draws), share)

    def read(left):
        while len(pending) > left:
            for images, sums in pending.popleft():
                meter.add(images, *sums.numpy())

    lost = False
    trainer.net.train()
    with contextlib.closing(drawn() if resident else staged(steps, stage, device)) as batches:
        try:
            for done, (rate, images, labels, share) in enumerate(batches, 1):
                pending.append(trainer.step(rate, moved(images, device), labels.to(device, non_blocking=True), share))
                read(LAG)
                if settle is not None and settle(done):
                    read(0)
                yield done
        except Exception as error:
            lost = out_of_memory(error) is not None
            raise
        finally:
            if not lost:
                read(0)


def evaluate(net, batches, device, labels, resident=None, casting=contextlib.nullcontext, team=None,
             told=lambda: None):
    """The Scores of net on batches of (images, labels, count); only the first `count` of a batch are real.

    A team's workers each bring their own batches, and all get the scores over those of all.

    labels : classes of the data; the net may have more outputs. resident : the Images of the batches on the device, if
    they lie there. casting : the context of a forward pass. told : called after each batch. Raises Diverged if the net
    answers with NaN or infinity.
    """
    counts, pending = Counts(labels, told), collections.deque()

    def stage(item):
        images, truth, count = item
        return array(images, device), np.asarray(truth[:count], np.int64)

    def resting():
        for images, truth in resident.in_order(batches.batch_size):
            yield images, batches.split.labels[counts.images + sum(len(each) for _, each in pending):][:len(truth)]

    def read(left):
        while len(pending) > left:
            output, truth = pending.popleft()
            counts.add(output.numpy()[:len(truth)], truth)

    net.eval()
    with torch.no_grad(), contextlib.closing(resting() if resident else staged(batches, stage, device)) as staging:
        for images, truth in staging:
            with casting():
                logits = net(moved(images, device))
            pending.append((Later(logits.float()), truth))
            read(LAG)
        read(0)
    return counts.scores(team.total if team is not None and team.size > 1 else None)
