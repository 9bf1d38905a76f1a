"""Inference with ONNX Runtime on the files of MXNet's exporter."""
import os

import onnx
import onnxruntime

from .contender import Answers, NotMeasured


class Inference(Answers):
    """The exported net."""

    def __init__(self, folder):
        super().__init__(folder)
        path = self.reference.folder / "net.onnx"
        if not path.exists():
            raise NotMeasured("the net was not exported to ONNX")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(_without_weight_inputs(path), options, ["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.about = {"logits_differ_by": self.reference.check(self.answer)}

    def answer(self, images):
        return self.session.run(None, {self.input: images})[0]


def _without_weight_inputs(path):
    """The file's bytes without weights as inputs. MXNet lists them there, which prevents all folding."""
    model = onnx.load(str(path))
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model.SerializeToString()
