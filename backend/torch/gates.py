"""The gates that a net in PyTorch computes, caught while its graph is interpreted."""
import numpy as np
import torch
from torch import fx

GATE = ".gate."  # a gated unit's layers stand below it (model.activation.Gated)


def captured(net, devices, images):
    """As backend.gluon.gates.captured. net: a module, or a Gluon net or Graph with weights."""
    if not isinstance(net, torch.nn.Module):
        from .convert import to_torch
        net = to_torch(net)
    catcher = _Catcher(net.eval().to(devices[0]))
    with torch.no_grad():
        catcher.run(torch.from_numpy(np.array(images, np.float32)).to(devices[0]))
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
