"""A CIFAR net as a chain of fused operators: stem, blocks, head and dense layer."""
import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, nn

from model.cifar_resnet import BasicBlockV2, CIFARResNetV2

from .fusable import REFINEMENTS, Unfit, around, common_norm, kind_of, norm_parameters, unit_parameters


def steps_of(net):
    """(operator, its parameters, its attributes) along the net; raises Unfit if an operator is missing."""
    if type(net) is not CIFARResNetV2:
        raise Unfit(f"{type(net).__name__} as a whole has none")
    first, stem, *stages = list(net.features)[:5]
    norm = common_norm(net, unscaled=first)
    if type(net.output) is not nn.Dense or net.output.act is not None or net.output.bias is None:
        raise Unfit("its output is not a dense layer with bias")
    yield "stem", norm_parameters(first)[1:] + [stem.weight], norm
    for stage in stages:
        for block in stage:
            if type(block) is not BasicBlockV2:
                raise Unfit(f"there is no fused {type(block).__name__}")
            parameters, attributes = around(block.conv1, block)
            parameters += [block.conv2.weight] + unit_parameters(block.refine)
            if block.downsample is not None:
                parameters.append(block.downsample.weight)
            refine = "none" if block.refine is None else kind_of(block.refine, REFINEMENTS)
            yield "block", parameters, {**norm, **attributes, "refine": refine,
                                        "downsample": str(int(block.downsample is not None))}
    last, head = net.features[5], net.features[6]
    yield "head", norm_parameters(last) + unit_parameters(head), {**norm, "unit": kind_of(head)}
    yield "dense", [net.output.weight, net.output.bias], {"num_hidden": net.output._units}


class Chain(HybridBlock):
    """The steps of a CIFARResNetV2 over the net's own parameters; subclasses turn them into operators."""

    def __init__(self, net):
        super().__init__(prefix="fused_")
        self._steps = list(steps_of(net))
        for _, parameters, _ in self._steps:
            for parameter in parameters:
                self.params.update({parameter.name: parameter})
                self._reg_params[parameter.name] = parameter  # so Gluon hands its array to hybrid_forward


class TrainingTwin(Chain):
    """A CIFARResNetV2 as stem, blocks, head and dense layer. input_gradient: compute the gradient of the images too."""

    def __init__(self, net, input_gradient=False):
        super().__init__(net)
        self._input_gradient = input_gradient

    def hybrid_forward(self, F, x, **arrays):
        for operator, parameters, attributes in self._steps:
            inputs = [arrays[parameter.name] for parameter in parameters]
            if operator == "dense":
                return F.FullyConnected(x, *inputs, **attributes)
            if operator == "stem" and self._input_gradient:
                x = F.identity(x)  # unlike the operator, it can add to the gradient of the images
                attributes = {**attributes, "input_gradient": "1"}
            x = getattr(F, f"atac_{operator}")(x, *inputs, **attributes)


class InferenceTwin(Chain):
    """A CIFARResNetV2 as one operator, which prepares its weights again for every batch: they may have changed."""

    def hybrid_forward(self, F, x, **arrays):
        return F.atac_net_inference(x, *(arrays[parameter.name] for parameter in parameters_in(self._steps)),
                                    layers=layers_attribute(self._steps))


class FrozenTwin(HybridBlock):
    """A CIFARResNetV2 as one operator over a copy of its weights in one array.

    MXNet takes longer to pass the arrays of a net one by one than the net takes for an image. The operator keeps what
    it derives from the weights until they change.
    """

    def __init__(self, net):
        super().__init__(prefix="fused_")
        steps = list(steps_of(net))
        parameters = parameters_in(steps)
        self._attributes = {"layers": layers_attribute(steps),
                            "shapes": ";".join(",".join(map(str, parameter.shape)) for parameter in parameters)}
        contexts = parameters[0].list_ctx()
        with self.name_scope():
            size = sum(int(np.prod(parameter.shape)) for parameter in parameters)
            self.weights = self.params.get("weights", shape=(size,), grad_req="null")
        self.weights.initialize(mx.init.Zero(), ctx=contexts)
        for context in contexts:
            self.weights.data(context)[:] = mx.nd.concat(
                *(parameter.data(context).reshape(-1) for parameter in parameters), dim=0)

    def hybrid_forward(self, F, x, weights):
        return F.atac_net_inference(x, weights, **self._attributes)


def parameters_in(steps):
    return [parameter for _, parameters, _ in steps for parameter in parameters]


def layers_attribute(steps):
    """The steps as the attribute of the operator for a whole net."""
    return ";".join(f"{operator}:{','.join(f'{name}={value}' for name, value in attributes.items())}"
                    for operator, _, attributes in steps)
