"""What an exported file takes, returns and says of itself: one JSON object, in the file and beside it.

The object is under the key "hrnet_zoo" (`KEY`): in the `metadata_props` of an ONNX file, in the extra files of a
`.pt2`, in the `rt_info` of an OpenVINO IR; and in `<stem>.json` beside the file. Its keys are those of `describe`.

Inputs and outputs, by name (a `.pt2` takes and returns them in this order). N, H, W are free; H and W are at least
`LEAST_SIZE`:

    "labels"   image   uint8 (N, H, W, 3), RGB: photos that were resized to the network's input size
               size    int64 (2,): height and width of the labels, those of the photo
            -> labels  uint8 (N, height, width): class indices
               logits  float32 (N, classes, ceil(H/4), ceil(W/4))

    "logits"   image   float32 (N, 3, H, W): (RGB - mean) / std
            -> logits  float32 (N, classes, ceil(H/4), ceil(W/4))

Labels are made as `model.predict` makes them: the *logits* are resized bilinearly, to the network's input and from
there to `size`, and the first of the best classes is taken. That takes memory: about `LABEL_BYTES` x classes x N x
pixels, where pixels is the larger one of H x W and height x width. With the size (0, 0) there are no labels, (N, 0, 0),
and only the network is computed: for runners that resize the logits themselves in row chunks, or slide a window and
average its logits.

The photo itself is resized outside the file, by the rule of `resize_to` (see `hrnet_zoo.images.preprocess`): the size
keeps the aspect ratio and fits into (long, short), and the pixels are OpenCV's bilinear ones in fixed point.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hrnet_zoo import __version__
from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.images.preprocess import MEAN, STD
from hrnet_zoo.models.fcn import FCNHRNet

Outputs: TypeAlias = Literal["labels", "logits"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8"]

KEY = "hrnet_zoo"
FORMAT = 1  # raise it when a runner of the previous version would misread a file
OPSET = 20  # of ONNX: its Resize is the one that torch writes without loss, and runtimes since 2024 have it
LEAST_SIZE = 33  # torch.export: below, the coarsest map is one pixel high or wide, for which it would specialize
LABEL_BYTES = 16  # per class and pixel: measured are 15.9 with ONNX Runtime 1.32, and 12.1 with OpenVINO 2026.4
RESIZE_RULE = (
    "keep the aspect ratio and fit into resize_to (long side, short side): scale = min(long / max(h, w), "
    "short / min(h, w)), each side int(side * scale + 0.5); pixels as cv2.resize INTER_LINEAR, in fixed point"
)


@dataclass(frozen=True)
class Agreement:
    """How a file agrees with the network on one generated scene, or a batch of them."""

    scene: str  # what it is an example of
    batch: int
    input_size: tuple[int, int]  # height and width of the network's input
    size: tuple[int, int]  # height and width of the labels
    pixel_agreement: float  # share of pixels labeled alike, 0 to 1
    largest_logit_error: float
    largest_logit: float  # the largest magnitude among the network's own logits


def describe(
    model: FCNHRNet,
    *,
    file_format: str,
    outputs: Outputs,
    precision: Precision,
    opset: int | None,
    weights_sha256: str,
    license_note: str,
    untrained_classes: Sequence[str],
) -> dict[str, Any]:
    """Return the JSON object, but for what is known only when the file is written: "versions" and "agreement".

    Args:
        model: the network that was exported.
        file_format: "onnx", "pt2" or "openvino".
        outputs: what the file returns.
        precision: of the arithmetic of the network; logits are resized in float32.
        opset: version of ONNX's operators; None if the file is no ONNX.
        weights_sha256: digest of the exported weights, as `config.json` of a model folder has it.
        license_note: what is known of the licenses.
        untrained_classes: names of classes whose rows of the classifier are as they were initialized.

    """
    data = model.dataset
    side, stride = data.window
    return {
        "format": FORMAT,
        "library": "hrnet-zoo",
        "library_version": __version__,
        "name": re.split(r"[/\\:]", model.name)[-1] or model.arch,  # of a model folder without the folders above it
        "arch": model.arch,
        "method": model.method,
        "file_format": file_format,
        "outputs": outputs,
        "precision": precision,
        "classes": list(data.classes),
        "palette": [list(color) for color in data.palette],
        "ignore_label": IGNORE_INDEX,  # in label maps to compare with; no file returns it
        "color_order": "RGB",
        "mean": list(MEAN),
        "std": list(STD),
        "resize_to": list(data.resize_to),
        "resize_rule": RESIZE_RULE,
        "sliding_window": {"size": side, "stride": stride} if data.sliding_window else None,
        "logits_stride": 4,
        "least_size": LEAST_SIZE,
        "label_bytes_per_class_and_pixel": LABEL_BYTES,
        "opset": opset,
        "versions": {},  # of the libraries that wrote the file, by name
        "source_sha256": model.provenance.get("source_sha256"),
        "weights_sha256": weights_sha256,
        "license_note": license_note,
        "untrained_classes": list(untrained_classes),
        "agreement": [],  # of each scene of the check, an object with the keys of `Agreement`
    }
