"""The PyTorch modules that are exported. Only these two functions ask MXNet for them."""
import torch

import model


def module_of(net):
    """A Gluon net with its weights as a module for inference on the CPU."""
    return _for_inference(model.to_torch(net))


def module_with(about, state_dict):
    """The same for an About, with the weights of a state_dict. Raises RuntimeError if they do not fit."""
    import mxnet as mx

    net = model.get_model(about.model, **about.arguments)
    net.initialize(mx.init.Zero())
    module = model.to_torch(net)
    module.load_state_dict(state_dict)
    return _for_inference(module)


def _for_inference(module):
    for each in module.modules():
        if isinstance(each, torch.nn.BatchNorm2d):
            each.num_batches_tracked = None  # only training counts batches
    return module.eval().requires_grad_(False)


def forward_of(module):
    """NumPy images -> NumPy logits."""
    def forward(images):
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()
    return forward
