"""OCRNet: all recorded masks of the reference; half precision and 8 bits; every exported format."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from hrnet_zoo.datasets import SCENES
from hrnet_zoo.demo.scenes import TRAINING_SEEDS_START, scene
from hrnet_zoo.engines.optimize import optimize
from hrnet_zoo.evaluation.agreement import pixel_agreement
from hrnet_zoo.exporting.export import export
from hrnet_zoo.images.preprocess import normalize
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model, initialize
from tests.models.test_ocr import GOLDEN

FRAME = "frankfurt_000000_000294_leftImg8bit.png"
IMAGES = [scene(seed, 192, 256).image for seed in range(8)]
STEPS = 50


@pytest.mark.parametrize(
    ("image", "mode"), [("3dogs.jpg", "whole"), ("color.jpg", "whole"), (FRAME, "whole"), (FRAME, "ms_flip")]
)
def test_masks_of_the_reference(image: str, mode: str, shared: Path) -> None:
    recorded = load_file(shared / "golden_ocrnet/expected.safetensors")
    network = create_model("ocrnet_hr18s_voc12aug_40k", checkpoint=shared / GOLDEN, device="cpu")
    mask = network.predict(shared / "pictures" / image, ms_flip=mode == "ms_flip").mask
    differ = mask != recorded[f"{image}.{mode}.mask"].numpy()
    assert not (differ & (recorded[f"{image}.{mode}.margin"].numpy() > 0.01)).any()


@pytest.fixture(scope="module")
def network() -> FCNHRNet:
    """Teach OCRNet's second head some street scenes, on top of the demo network: rounding confuses random weights."""
    torch.manual_seed(0)
    demo, network = create_model("demo", device="cpu"), FCNHRNet("hr18s", SCENES, method="OCRNet")
    initialize(network)
    network.backbone.load_state_dict(demo.backbone.state_dict())
    fcn, ocr = network.decode_head
    fcn.load_state_dict(demo.decode_head.state_dict())
    for part in (network.backbone, fcn):
        part.requires_grad_(False)
    optimizer = torch.optim.AdamW(ocr.parameters(), lr=2e-3)
    network.train()
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / STEPS)
        scenes = [scene(TRAINING_SEEDS_START + 4 * step + number, 192, 256) for number in range(4)]
        logits = network(torch.cat([normalize(each.image) for each in scenes]))
        labels = torch.from_numpy(np.stack([each.mask for each in scenes])).long()
        optimizer.zero_grad()
        F.cross_entropy(logits, labels, ignore_index=255).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.requires_grad_(True).eval()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(network: FCNHRNet, dtype: torch.dtype, tmp_path: Path) -> None:
    other = create_model(network.save_pretrained(tmp_path / "ocrnet"), device="cpu", dtype=dtype)
    assert pixel_agreement(network, other, IMAGES) >= 0.995


def test_optimized_forms(network: FCNHRNet) -> None:
    pytest.importorskip("openvino")
    for engine in ("onednn", "openvino"):
        assert pixel_agreement(network, optimize(network, engine=engine, dtype=torch.float32), IMAGES) >= 0.9999
    assert pixel_agreement(network, optimize(network, dtype=torch.int8, calibration=IMAGES), IMAGES) >= 0.95


@pytest.mark.parametrize(
    ("suffix", "precision"),
    [(".onnx", "fp32"), (".onnx", "fp16"), (".pt2", "fp32"), (".xml", "fp32"), (".xml", "int8")],
)
def test_exported(network: FCNHRNet, suffix: str, precision: Any, tmp_path: Path) -> None:
    """`export` compares the file with the network, and refuses one that labels other classes."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    made = export(network, tmp_path / f"ocrnet{suffix}", precision=precision)
    assert made.metadata["method"] == "OCRNet"
    print(suffix, precision, made.agreement)  # noqa: T201 - `pytest -rP` shows it
