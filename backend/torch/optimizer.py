"""Nesterov's accelerated gradient by MXNet's rule, over all parameters of a net."""
import torch


class NAG(torch.optim.Optimizer):
    """MXNet's nag_mom_update (docs/FIDELITY.md, 4.5): weight w, gradient g, momentum m, rate lr, factor mu, decay wd:

        w <- w - lr (g + wd w) - mu (mu m + lr (g + wd w)),  then  m <- mu m + lr (g + wd w)  with the new w.

    The momentum holds the rate: what was gathered before a drop goes on at the old one. torch.optim.SGD(nesterov=True)
    keeps it without, so that after a drop the two differ.
    """

    def __init__(self, parameters, lr, momentum=0., wd=0.):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "wd": wd})

    @torch.no_grad()
    def step(self, factor=1.):
        """Update all parameters that have a gradient, which is multiplied by `factor` first."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            rate, momentum, decay = group["lr"], group["momentum"], group["wd"]
            gradients = torch._foreach_mul([weight.grad for weight in weights], factor)
            decayed = torch._foreach_add(gradients, weights, alpha=decay) if decay else gradients
            torch._foreach_add_(weights, decayed, alpha=-(1 + momentum) * rate)
            if not momentum:
                continue
            momenta = [self.momentum(weight) for weight in weights]
            torch._foreach_add_(weights, momenta, alpha=-momentum ** 2)
            torch._foreach_mul_(momenta, momentum)
            torch._foreach_add_(momenta, gradients, alpha=rate)
            if decay:
                torch._foreach_add_(momenta, weights, alpha=rate * decay)

    def momentum(self, weight):
        """The momentum of a weight; zeros before the first step."""
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]


def make_optimizer(net, recipe):
    """NAG over the parameters of a net that are trained. recipe.no_wd takes the decay from BatchNorms and biases."""
    trained = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    norms = {f"{path}.weight" for path, module in net.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    spared = [name for name in trained if recipe.no_wd and (name in norms or name.split(".")[-1] == "bias")]
    groups = [{"params": [weight for name, weight in trained.items() if name not in spared], "wd": recipe.wd},
              {"params": [trained[name] for name in spared], "wd": 0.}]
    return NAG(groups, recipe.lr, recipe.momentum)
