"""The gates that a net in PyTorch computes, caught while its graph is interpreted."""
import numpy as np
import torch
from torch import fx

GATE = ".gate."  # a gated unit's layers stand below it (model.activation.Gated)


def captured(net, device, images):
    """The gates of a module on its device, as backend.base.Scorer.gates gives them."""
    catcher = _Catcher(net.eval())
    with torch.no_grad():
        catcher.run(torch.from_numpy(np.array(images, np.float32)).to(device))
    return catcher.found


class _Catcher(fx.Interpreter):
    """Runs a graph. found : the factors that are gates, {structural name of the unit: NumPy array}."""

    def __init__(self, module):
        super().__init__(module)
        self.found = {}

    def run_node(self, n):
        for factor in n.args if n.target is torch.mul else ():
            name = _unit(factor)
            if name is not None:
                self.found[name] = self.env[factor].cpu().numpy()
        return super().run_node(n)


def _unit(node):
    """The structural name of the unit whose gate a node is: the layers that lead to it stand below the gate."""
    while isinstance(node, fx.Node) and node.op in ("call_function", "call_module"):
        if node.op == "call_module":
            path, gate, _ = f"{node.target}.".rpartition(GATE)
            return path if gate else None
        node = node.args[0] if node.args else None
    return None
