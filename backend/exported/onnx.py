"""ONNX by PyTorch's exporter: it runs in ONNX Runtime, which needs neither MXNet nor PyTorch."""
import os

import onnxruntime

from support.errors import InputError
from support.files import content
from support.threads import OPENMP

from . import OPSET
from .about import About

INPUT, OUTPUT = "images", "logits"


def make(module, about):
    import torch  # here, because load() does without it

    from .pt2 import call_of, quiet

    with quiet():
        model = torch.onnx.export(module, **call_of(about), dynamo=True, opset_version=OPSET, input_names=[INPUT],
                                  output_names=[OUTPUT], verbose=False).model_proto
    for each in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer,
                 *model.graph.value_info, model.graph):
        del each.metadata_props[:]  # the exporter's notes for its developers, larger than a small net
    for name, text in about.as_texts().items():
        model.metadata_props.add(key=name, value=text)
    return [model.SerializeToString()]


def load(paths):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = int(os.environ.get(OPENMP) or 0)  # 0: all cores
    session = onnxruntime.InferenceSession(content(paths[0]), options, providers=["CPUExecutionProvider"])
    about = About.from_texts(session.get_modelmeta().custom_metadata_map, paths[0])
    names = [each.name for each in session.get_inputs()], [each.name for each in session.get_outputs()]
    if names != ([INPUT], [OUTPUT]):
        raise InputError(f"{paths[0]} has the inputs and outputs {names}, not {INPUT} and {OUTPUT}; export it again")
    return (lambda images: session.run([OUTPUT], {INPUT: images})[0], about,
            f"ONNX Runtime {onnxruntime.__version__}")
