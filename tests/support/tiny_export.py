"""A network that rounds nothing, in PyTorch and as an exported file, so that labels must be equal to the bit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hrnet_zoo.datasets import Dataset
from hrnet_zoo.images.preprocess import MEAN, STD
from hrnet_zoo.models.base import SegmentationModel

CLASSES = 12


class TinyModel(SegmentationModel):
    """Its logits at stride 4 are a normalized channel of a pixel nearby, or the negative one."""

    name = "tiny"

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataclasses.replace(
            dataset, labels=tuple((f"class {number}", (20 * number, 255 - number, 7)) for number in range(CLASSES))
        )

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """float32."""
        return torch.float32

    def logits_stride4(self, x: Tensor) -> Tensor:
        """Return the logits (N, ceil(H/4), ceil(W/4), CLASSES)."""
        return F.conv2d(x, torch.from_numpy(weights()), stride=4, padding=1).permute(0, 2, 3, 1)

    def ready(self) -> TinyModel:
        """Return this model."""
        return self

    def _optimized(self) -> TinyModel:
        return self


def weights() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a kernel (CLASSES, 3, 3, 3) with a single 1 or -1 for each class."""
    kernel = np.zeros((CLASSES, 3, 3, 3), np.float32)
    for number in range(CLASSES):
        kernel[number, number % 3, number // 2 % 3, number // 4 % 3] = 1 - 2 * (number // 3 % 2)
    return kernel


def write_onnx(path: Path, model: TinyModel, outputs: str = "labels", **changes: object) -> Path:
    """Write the model as ONNX, with the metadata that a runner needs; `changes` to these."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    mean, std = (np.asarray(each, np.float32) for each in (MEAN, STD))
    constants = {"kernel": weights(), "mean": mean, "std": std}
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES, None, None])
    convolution = helper.make_node("Conv", ["x", "kernel"], ["logits"], strides=[4, 4], pads=[1, 1, 1, 1])
    if outputs == "labels":
        inputs = [
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3]),
            helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
        ]
        nodes = [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["float", "mean"], ["centered"]),
            helper.make_node("Div", ["centered", "std"], ["normalized"]),
            helper.make_node("Transpose", ["normalized"], ["x"], perm=[0, 3, 1, 2]),
            convolution,
            helper.make_node("Cast", ["size"], ["labels"], to=TensorProto.UINT8),  # which a runner does not ask for
        ]
        results = [helper.make_tensor_value_info("labels", TensorProto.UINT8, [2]), logits]
    else:
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])]
        nodes = [helper.make_node("Identity", ["image"], ["x"]), convolution]
        results = [logits]
    graph = helper.make_graph(
        nodes, "tiny", inputs, results, [numpy_helper.from_array(value, name) for name, value in constants.items()]
    )
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    file.metadata_props.add(key="hrnet_zoo", value=json.dumps({**metadata(model, outputs), **changes}))
    onnx.checker.check_model(file)
    onnx.save(file, path)
    return path


def metadata(model: TinyModel, outputs: str) -> dict[str, Any]:
    """Return those of the keys of `hrnet_zoo.exporting.metadata.describe` that a runner reads."""
    side, stride = model.dataset.window
    return {
        "format": 1,
        "outputs": outputs,
        "classes": model.classes,
        "palette": model.palette,
        "mean": MEAN,
        "std": STD,
        "resize_to": model.dataset.resize_to,
        "sliding_window": {"size": side, "stride": stride} if model.dataset.sliding_window else None,
        "least_size": 33,
    }
