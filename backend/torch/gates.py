"""The gates that a net in PyTorch computes, caught while its graph is interpreted."""
import numpy as np
import torch
from torch import fx

GATE = ".gate."  # a gated unit's layers stand below it (model.activation.Gated)


def captured(net, device, images):
    """The gates of a module on its device, as backend.base.Scorer.gates gives them."""
    net.eval()
    gates = {}
    for node in net.graph.nodes:
        if node.op == "call_function" and node.target is torch.mul and len(node.args) == 2:
            for factor in node.args:
                name = _unit(factor)
                if name is not None:
                    gates[factor] = name
    if not gates:
        return {}
    catcher = _Catcher(net, gates)
    with torch.no_grad():
        catcher.run(torch.from_numpy(np.array(images, np.float32)).to(device))
    return catcher.found


class _Catcher(fx.Interpreter):
    """Runs a graph and keeps the results of some nodes. gates: {node: name}."""

    def __init__(self, module, gates):
        super().__init__(module)
        self.gates, self.found = gates, {}

    def run_node(self, n):
        result = super().run_node(n)
        if n in self.gates:
            self.found[self.gates[n]] = result.cpu().numpy()
        return result


def _unit(node):
    """The structural name of the unit whose gate a node is: the layers that lead to it stand below the gate."""
    while isinstance(node, fx.Node) and node.op in ("call_function", "call_module"):
        if node.op == "call_module":
            path, gate, _ = f"{node.target}.".rpartition(GATE)
            return path if gate else None
        node = node.args[0] if node.args else None
    return None
