"""The loss of a training step, and what its gradients need."""
import mxnet as mx
import numpy as np


def reverse(array):
    """An array with its first axis backwards."""
    return mx.nd.reverse(array, axis=0)


def cross_entropy(logits, labels, smoothing=0.0, share=1.0):
    """Cross entropy of logits and labels, one number (nats) an image, with smoothed and with mixed labels.

    smoothing: this share of the target is spread evenly over all outputs, the label's own included [Szegedy et al.
    2016]. share: the label's weight if images were mixed; the rest belongs to the label of the image at the same place
    from the end.
    """
    scores = mx.nd.log_softmax(logits, axis=1)
    own = mx.nd.pick(scores, labels, axis=1)
    if share != 1:
        own = share * own + (1 - share) * mx.nd.pick(scores, reverse(labels), axis=1)
    return -own if not smoothing else -((1 - smoothing) * own + smoothing * scores.mean(axis=1))


def wants_input_gradient(forward, context):
    """Whether a training step must ask for the gradient of its input, although nothing uses it.

    On a CPU, MXNet's BatchNorm moves its running statistics in the backward pass, which reaches a BatchNorm at the very
    input only if the input wants a gradient. The weights' gradients stay the same. A forward pass with `own_statistics`
    moves the statistics itself, as GPUs do.
    """
    return context.device_type == "cpu" and not getattr(forward, "own_statistics", False)


def finite_gradients(net, context):
    """Whether all gradients on a device are finite. Waits for them."""
    arrays = {}
    for parameter in net.collect_params().values():
        if parameter.grad_req != "null":
            arrays.setdefault(np.dtype(parameter.dtype), []).append(parameter.grad(context))
    checks = [mx.nd.multi_all_finite(*group[start:start + 200], num_arrays=len(group[start:start + 200]))
              for group in arrays.values() for start in range(0, len(group), 200)]
    return all(check.asscalar() == 1 for check in checks)
