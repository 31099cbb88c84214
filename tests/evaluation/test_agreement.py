"""Two sides of a comparison: what names them, how far they agree, where they differ, and what cannot be compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hrnet_zoo.datasets import SCENES
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError, ImageError
from hrnet_zoo.evaluation.agreement import compare_image, load_labeler, pixel_agreement
from hrnet_zoo.inference.agreement import (
    DIFFERENT,
    LabelAgreement,
    Labeler,
    draw_difference,
    label_agreement,
    require_same_classes,
)
from hrnet_zoo.zoo.create import create_model
from tests.support.tiny_export import TinyModel, metadata, write_onnx

pytestmark = pytest.mark.usefixtures("quick_demo")

MODEL = TinyModel(dataclasses.replace(SCENES, resize_to=(192, 96)))
IMAGE = scene(0, 96, 192).image


def labeler(labels: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> Labeler:
    return Labeler("a side", ("sky", "road", "car"), ((1, 2, 3), (90, 91, 92), (200, 201, 202)), lambda _: labels)


@pytest.mark.parametrize(
    ("text", "engine", "dtype"),
    [
        ("demo", None, torch.float32),
        ("demo@bfloat16", None, torch.bfloat16),
        ("demo@pytorch-float32", "pytorch", torch.float32),
        ("demo@pytorch-bfloat16", "pytorch", torch.bfloat16),
    ],
)
def test_models_and_how_they_are_computed(text: str, engine: str | None, dtype: torch.dtype) -> None:
    side = load_labeler(text, device="cpu")
    demo = create_model("demo", device="cpu", dtype=None if engine else dtype)
    form = demo if engine is None else demo_form(engine, dtype)
    np.testing.assert_array_equal(side.label(IMAGE), np.asarray(form.predict(IMAGE)))
    assert (side.name, side.classes, side.palette) == (text, demo.classes, demo.palette)


def demo_form(engine: str, dtype: torch.dtype):  # type: ignore[no-untyped-def]  # noqa: ANN201
    from hrnet_zoo.engines.optimize import optimize

    network = create_model("demo", device="cpu")
    return optimize(network, engine=engine, dtype=dtype)


def test_exported_files(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    side = load_labeler(str(write_onnx(tmp_path / "tiny.onnx", MODEL)))
    np.testing.assert_array_equal(side.label(IMAGE), MODEL.predict(IMAGE).mask)
    assert side.classes == MODEL.classes
    with pytest.raises(ImageError, match="33 a side are the least"):
        side.label(np.zeros((20, 900, 3), np.uint8))


class Logits(nn.Module):
    """What `export` traces with outputs="logits"."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return stride-4 logits (N, classes, h, w)."""
        return MODEL.logits_stride4(x).permute(0, 3, 1, 2)


def test_pt2_files_run_if_they_are_trusted(tmp_path: Path) -> None:
    import json

    path = tmp_path / "tiny.pt2"
    program = torch.export.export(Logits(), (torch.zeros(1, 3, 96, 192),))
    torch.export.save(program, path, extra_files={"hrnet_zoo": json.dumps(metadata(MODEL, "logits"))})
    with pytest.raises(ConfigError, match="may run any code") as caught:
        load_labeler(str(path))
    assert "--trust-pt2" in caught.value.advice
    np.testing.assert_array_equal(load_labeler(str(path), trust_pt2=True).label(IMAGE), MODEL.predict(IMAGE).mask)
    torch.export.save(program, path)
    with pytest.raises(ConfigError, match="lacks the metadata"):
        load_labeler(str(path), trust_pt2=True)


@pytest.mark.parametrize("name", ["missing.onnx", "missing.xml", "notes.onnx", "notes.pt2", "missing.pt2"])
def test_files_that_are_no_exports(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "notes.onnx").write_text("no network")
    (tmp_path / "notes.pt2").write_text("no network")
    with pytest.raises(ConfigError) as caught:
        load_labeler(str(tmp_path / name), trust_pt2=True)
    assert "hrnet-zoo export" in caught.value.advice


def test_counts_shares_and_classes() -> None:
    first = np.array([[0, 0, 1, 1], [1, 1, 1, 1]], np.uint8)
    second = np.array([[0, 1, 1, 1], [1, 1, 1, 2]], np.uint8)
    agreement = label_agreement(("sky", "road", "car"), first, second)
    assert (agreement.pixels, agreement.different) == (0.75, 2)
    facts = (agreement + agreement).to_dict()
    assert (facts["pixel_agreement"], facts["pixels"], facts["different"]) == (0.75, 16, 4)
    assert [(row["class"], row["iou"], row["pixels"]) for row in facts["classes"]] == [
        ("sky", 0.5, [4, 2]),
        ("road", pytest.approx(5 / 7), [12, 12]),
        ("car", 0.0, [0, 2]),
    ]
    same = label_agreement(("sky", "road", "car"), first, first)
    assert [row["class"] for row in same.to_dict()["classes"]] == ["sky", "road"]
    assert isinstance(same, LabelAgreement)


def test_pixel_agreement_of_models() -> None:
    demo = create_model("demo", device="cpu")
    assert pixel_agreement(demo, demo, [IMAGE, IMAGE[:64]]) == 1
    coarse = create_model("demo", device="cpu", dtype=torch.bfloat16)
    masks = [np.asarray(each.predict(IMAGE)) for each in (demo, coarse)]
    assert pixel_agreement(demo, coarse, [IMAGE]) == pytest.approx((masks[0] == masks[1]).mean())


def test_the_picture_shows_where_they_differ() -> None:
    first = np.zeros((96, 192), np.uint8)
    second = first.copy()
    second[40, 100] = 2
    second[80, 20:80] = 255  # unlabeled
    sides = labeler(first), labeler(second)
    picture = np.asarray(draw_difference(IMAGE, (first, second), sides))
    height = picture.shape[0] // 2
    x, y = 192 + 12, height - 96  # of the upper right panel
    red = (picture[y:height, x : x + 192] == DIFFERENT).all(axis=2)
    assert sorted(zip(*np.nonzero(red), strict=True)) == [
        (row, column) for row in (39, 40, 41) for column in (99, 100, 101)
    ]
    np.testing.assert_array_equal(picture[y:height, :192], IMAGE)
    assert tuple(picture[y + height + 40, x + 100]) == (200, 201, 202)
    assert tuple(picture[y + height + 40, 100]) == (1, 2, 3)


def test_an_image_and_what_cannot_be_compared(tmp_path: Path) -> None:
    labels = np.zeros((96, 192), np.uint8)
    side = labeler(labels)
    with pytest.raises(ImageError):
        compare_image(tmp_path / "missing.jpg", (side, side))
    require_same_classes(side, side)
    for classes, words in ((("sky", "street", "car"), "'road' is 'street'"), (("sky",), "one has more of them")):
        with pytest.raises(ConfigError, match=words):
            require_same_classes(side, dataclasses.replace(side, classes=classes))
