"""Network -> ONNX, torch.export's `.pt2` or OpenVINO IR; and such a file -> a function that runs it.

Only the process that `hrnet_zoo.exporting.worker` is imports this: tracing patches torch for all threads, and
quantization sets up logging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from hrnet_zoo.engines.openvino import openvino
from hrnet_zoo.exporting.agreement import Arrays
from hrnet_zoo.exporting.graphs import LabelsGraph, LogitsGraph, folded, unfolded
from hrnet_zoo.exporting.metadata import KEY, LEAST_SIZE, OPSET, Outputs, Precision
from hrnet_zoo.images.preprocess import normalize
from hrnet_zoo.images.read import RGB
from hrnet_zoo.models.fcn import FCNHRNet

Save: TypeAlias = Callable[[Path, str], None]  # writes a file with this metadata

INPUTS: dict[Outputs, list[str]] = {"labels": ["image", "size"], "logits": ["image"]}
OUTPUTS: dict[Outputs, list[str]] = {"labels": ["labels", "logits"], "logits": ["logits"]}

# Of the inputs and outputs, as ONNX shows them; the height and width of the logits follow from the image's.
AXES = {"image": ("batch", "height", "width"), "labels": ("batch", "label_height", "label_width"), "logits": ("batch",)}


def to_pt2(network: FCNHRNet, outputs: Outputs, precision: Precision, images: Sequence[RGB], folder: Path) -> Save:
    """Trace a network; in float32 as it is, so that the logits are the network's own, to the bit."""
    program = _trace(network, outputs, precision, fold=precision != "fp32")

    def save(path: Path, metadata: str) -> None:
        torch.export.save(program, path, extra_files={KEY: metadata})

    return save


def to_onnx(network: FCNHRNet, outputs: Outputs, precision: Precision, images: Sequence[RGB], folder: Path) -> Save:
    """Convert a network to ONNX; "int8" is calibrated with images at the network's input size."""
    import onnx

    program = torch.onnx.export(
        _trace(network, outputs, precision, fold=True),
        dynamo=True,
        opset_version=OPSET,
        input_names=INPUTS[outputs],
        output_names=OUTPUTS[outputs],
        verbose=False,
    )
    assert program is not None  # noqa: S101
    model = _cleaned(program.model_proto)
    if precision == "int8":
        model = _cleaned(_quantized(model, outputs, images, folder))
    onnx.checker.check_model(model)

    def save(path: Path, metadata: str) -> None:
        del model.metadata_props[:]
        model.metadata_props.add(key=KEY, value=metadata)
        path.write_bytes(model.SerializeToString(deterministic=True))

    return save


def to_openvino(network: FCNHRNet, outputs: Outputs, precision: Precision, images: Sequence[RGB], folder: Path) -> Save:
    """Convert a network to OpenVINO IR by way of ONNX."""
    file = folder / "converted.onnx"
    to_onnx(network, outputs, precision, images, folder)(file, "")
    model = openvino().Core().read_model(file)

    def save(path: Path, metadata: str) -> None:
        model.set_rt_info(metadata, [KEY])
        # Otherwise it would round all float32 weights to float16.
        openvino().save_model(model, path, compress_to_fp16=False)

    return save


CONVERTERS = {".onnx": to_onnx, ".pt2": to_pt2, ".xml": to_openvino}


def load(path: Path, outputs: Outputs) -> Callable[[Arrays], Arrays]:
    """Load a file by its runtime, on the CPU, and return what runs it on arrays by name."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda arrays: _named(outputs, session.run(OUTPUTS[outputs], arrays))
    if path.suffix == ".xml":
        # Otherwise it would compute in bfloat16 where the processor can.
        compiled = openvino().Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def infer(arrays: Arrays) -> Arrays:
            found = compiled(arrays)
            return {name: found[name] for name in OUTPUTS[outputs]}

        return infer
    module = torch.export.load(path).module()

    def call(arrays: Arrays) -> Arrays:
        with torch.inference_mode():
            found = module(*(torch.from_numpy(arrays[name]) for name in INPUTS[outputs]))
        return _named(outputs, [each.numpy() for each in (found if outputs == "labels" else (found,))])

    return call


def versions(suffix: str, precision: Precision) -> dict[str, str]:
    """Return the versions of the libraries that write and check a file."""
    packages = ["torch"]
    if suffix != ".pt2":
        packages += ["onnx", "onnxscript"]
    if suffix == ".onnx" or precision == "int8":
        packages.append("onnxruntime")
    if suffix == ".xml":
        packages.append("openvino")
    return {package: version(package) for package in packages}


def _named(outputs: Outputs, arrays: Sequence[Any]) -> Arrays:
    return dict(zip(OUTPUTS[outputs], arrays, strict=True))


def _trace(network: FCNHRNet, outputs: Outputs, precision: Precision, *, fold: bool) -> ExportedProgram:
    dtype = torch.float16 if precision == "fp16" else torch.float32
    kind = LabelsGraph if outputs == "labels" else LogitsGraph
    graph: nn.Module = kind(folded(network) if fold else unfolded(network), dtype).eval()
    side = {"min": LEAST_SIZE}
    free = Dim("batch"), Dim("height", **side), Dim("width", **side)
    example: tuple[torch.Tensor, ...]
    shapes: dict[str, Any]
    # Of no round size: a trace may hold only for sizes that share a property of the example.
    if outputs == "labels":
        example = torch.zeros(2, 97, 163, 3, dtype=torch.uint8), torch.tensor([71, 113])
        shapes = {"image": {0: free[0], 1: free[1], 2: free[2]}, "size": None}
    else:
        example = (torch.zeros(2, 3, 97, 163),)
        shapes = {"image": {0: free[0], 2: free[1], 3: free[2]}}
    with torch.no_grad():
        program = torch.export.export(graph, example, dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    program.example_inputs = None
    return program


def _cleaned(model: Any) -> Any:  # noqa: ANN401 - onnx.ModelProto
    """Remove what torch notes for its own developers, stack traces with folders among it, and name the free axes."""
    graph = model.graph
    del graph.value_info[:], model.metadata_props[:]
    for each in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        each.ClearField("doc_string")
        each.ClearField("metadata_props")
    for value in (*graph.input, *graph.output):
        names = iter(AXES.get(value.name, ()))
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.ClearField("dim_param")
                if name := next(names, None):
                    dim.dim_param = name
    return model


def _feeds(outputs: Outputs, images: Sequence[RGB]) -> Iterator[dict[str, Any]]:
    """Yield inputs for the calibration, without labels."""
    for image in images:
        if outputs == "labels":
            yield {"image": image[None], "size": np.zeros(2, np.int64)}
        else:
            yield {"image": normalize(image).contiguous().numpy()}


def _quantized(model: Any, outputs: Outputs, images: Sequence[RGB], folder: Path) -> Any:  # noqa: ANN401
    """Quantize the convolutions, but neither the stem's two nor the classifier.

    These are little work and lose much: of six scenes of 768 x 384 the demo network labels 99.78 % of the pixels as
    before, 99.71 % with the second convolution in 8 bits, and 99.63 % with ranges that are not averaged over images.
    """
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = _feeds(outputs, images)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    path = folder / "float.onnx"  # ONNX Runtime 1.20 would move a model's weights to a file that it deletes
    path.write_bytes(model.SerializeToString())
    quantization.quantize_static(
        path,
        folder / "quantized.onnx",
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=[*names[:2], names[-1]],
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"CalibMovingAverage": True},
    )
    return onnx.load(folder / "quantized.onnx")
