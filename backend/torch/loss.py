"""The loss of a training step."""
import torch


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
