"""Side by side with the reference, where it is installed: the same files give the same figures.

In an environment of its own, beside hrnet-zoo:
`pip install mmengine mmcv-lite==2.1.0 mmsegmentation==1.2.2 ftfy regex opencv-python-headless`.

Files, labels, networks, inference and metric are the reference's own, by its own configurations. The table's figures
for multiple scales were made by scales of `resize_to`, which later releases replaced by scales of the image: that step
alone is changed here.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hrnet_zoo.datasets import DATASETS
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.evaluation.evaluate import evaluate
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import SPECS
from hrnet_zoo.zoo.catalog import METHODS, list_models
from hrnet_zoo.zoo.create import create_backbone, create_model
from tests.support.checkpoints import META, legacy
from tests.support.reference_cases import trained_like, write_folder

CONFIGS = {
    "cityscapes": "{}_{}_4xb2-40k_cityscapes-512x1024.py",
    "ade20k": "{}_{}_4xb4-80k_ade20k-512x512.py",
    "voc12aug": "{}_{}_4xb4-20k_voc12aug-512x512.py",
    "pascal_context": "{}_{}_4xb4-40k_pascal-context-480x480.py",
    "pascal_context_59": "{}_{}_4xb4-40k_pascal-context-59-480x480.py",
    "loveda": "{}_{}_4xb4-80k_loveda-512x512.py",
    "potsdam": "{}_{}_4xb4-80k_potsdam-512x512.py",
    "vaihingen": "{}_{}_4xb4-80k_vaihingen-512x512.py",
    "isaid": "{}_{}_4xb4-80k_isaid-896x896.py",
}
# (height, width): enlarged, reduced and nearly square ones.
ODD = {
    "cityscapes": [(509, 1021), (433, 641)],
    "ade20k": [(301, 403), (517, 389), (731, 975)],
    "voc12aug": [(375, 500), (333, 333), (731, 975)],
    "pascal_context": [(375, 501), (613, 523), (481, 487)],
    "pascal_context_59": [(375, 501), (613, 523), (481, 487)],
    "loveda": [(1000, 811), (509, 643)],
    "potsdam": [(383, 511), (700, 513)],
    "vaihingen": [(511, 400), (513, 700)],
    "isaid": [(600, 895), (1001, 700)],
}
# These fit the box as they are, so that both networks get the very same pixels.
FITTING = {
    "cityscapes": [(389, 2048)],
    "ade20k": [(512, 683), (683, 512)],
    "voc12aug": [(512, 683), (683, 512)],
    "pascal_context": [(389, 520), (520, 511)],
    "pascal_context_59": [(389, 520), (520, 511)],
    "loveda": [(1024, 1024)],
    "potsdam": [(512, 512), (512, 512)],
    "vaihingen": [(512, 512), (512, 512)],
    "isaid": [(896, 896)],
}


class Operations(ModuleType):
    """Stands where mmcv has its compiled operations, of which FCN-HRNet and OCRNet use none."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: Any, **__: Any) -> None:
            raise NotImplementedError(f"the compiled operation {name}")

        return refuse


@pytest.fixture(scope="module")
def reference() -> SimpleNamespace:
    """Import what is needed of the reference."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setitem(sys.modules, "mmcv._ext", Operations("mmcv._ext"))
        try:
            mmseg = importlib.import_module("mmseg")
            importlib.import_module("mmseg.utils").register_all_modules()
        except (ImportError, AssertionError) as error:  # it asserts the releases of mmcv that it works with
            pytest.skip(f"the reference cannot be imported: {error}")
        names = {
            "mmengine.config": ("Config",),
            "mmengine.dataset": ("pseudo_collate",),
            "mmengine.model": ("revert_sync_batchnorm",),
            "mmengine.runner": ("load_checkpoint",),
            "mmseg.registry": ("DATASETS", "METRICS", "MODELS"),
        }
        found = {name: getattr(importlib.import_module(module), name) for module in names for name in names[module]}
    return SimpleNamespace(configs=Path(mmseg.__path__[0]) / ".mim/configs", **found)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder that goes at once: the weights of a dozen large networks would stay in pytest's."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        monkeypatch.setenv("HRNET_ZOO_CACHE", str(Path(name, "cache")))
        yield Path(name)


def reference_scores(
    reference: SimpleNamespace, method: str, arch: str, key: str, root: Path, weights: Path, *, ms_flip: bool
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
    """Return the reference's IoU and accuracy by class, and its accuracy over all pixels, percent."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        config = reference.configs / METHODS[method] / CONFIGS[key].format(method.lower(), arch)
        config = reference.Config.fromfile(config)
        config.model.pretrained = None
        model = reference.revert_sync_batchnorm(reference.MODELS.build(config.model)).eval()
        reference.load_checkpoint(model, str(weights), map_location="cpu", strict=True)
        data = config.test_dataloader.dataset
        data.data_root = str(root)
        if ms_flip:
            data.pipeline = with_scales_of_the_box(data.pipeline)
            model = reference.MODELS.build({"type": "SegTTAModel", "module": model})
        images = reference.DATASETS.build(data)
        metric = reference.METRICS.build(config.test_evaluator)
        metric.dataset_meta = images.metainfo
        for image in images:
            found = model.test_step(reference.pseudo_collate([image]))
            metric.process({}, [sample.to_dict() for sample in found])
    areas = [sum(each) for each in zip(*metric.results, strict=True)]
    # As its own summary does, which rounds to two decimals.
    figures = metric.total_area_to_metrics(*areas, metrics=metric.metrics)
    return 100 * figures["IoU"], 100 * figures["Acc"], 100 * float(figures["aAcc"])


def with_scales_of_the_box(pipeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the reference's pipeline for multiple scales and mirroring, as its first releases had it."""
    long, short = next(step["scale"] for step in pipeline if step["type"] == "Resize")
    ratios = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    scales = [(int(long * ratio), int(short * ratio)) for ratio in ratios]
    views = [
        [{"type": "Resize", "scale": scale, "keep_ratio": True} for scale in scales],
        [{"type": "RandomFlip", "prob": probability, "direction": "horizontal"} for probability in (0.0, 1.0)],
        [{"type": "LoadAnnotations"}],
        [{"type": "PackSegInputs"}],
    ]
    return [{"type": "LoadImageFromFile"}, {"type": "TestTimeAug", "transforms": views}]


def load(method: str, arch: str, key: str, weights: Path) -> FCNHRNet:
    """Load the weights as a user would; the table lacks some of the networks on Pascal Context."""
    if rows := list_models(method=method, dataset=key, arch=arch):
        return create_model(rows[-1], checkpoint=weights, device="cpu")
    network = FCNHRNet(arch, DATASETS[key])
    network.load_state_dict(torch.load(weights, weights_only=True)["state_dict"], strict=True)
    return network


def compare(
    reference: SimpleNamespace,
    place: Path,
    arch: str,
    key: str,
    sizes: list[tuple[int, int]],
    *,
    tolerance: float,
    ms_flip: bool = False,
    method: str = "FCN",
) -> None:
    network = trained_like(arch, DATASETS[key], method)
    weights = place / "weights.pth"
    weights.write_bytes(legacy(network.state_dict(), {**META, "CLASSES": network.classes}))
    write_folder(place / "data", network, sizes)
    expected = reference_scores(reference, method, arch, key, place / "data", weights, ms_flip=ms_flip)
    scores = evaluate(load(method, arch, key, weights), place / "data", ms_flip=ms_flip, workers=0, progress=False)
    iou, accuracy = map(np.array, zip(*scores.per_class.values(), strict=True))
    least = 5 if method == "FCN" else 2  # random weights of OCRNet see fewer classes
    assert least < scores.miou < 90  # neither blind nor perfect: every pixel counts
    found = np.array([scores.miou, scores.macc, scores.aacc])
    differences = found - (np.nanmean(expected[0]), np.nanmean(expected[1]), expected[2])
    print(key, method, arch, "ms+flip" if ms_flip else "single", found, differences)  # noqa: T201 - `pytest -rP` shows it
    assert np.abs(differences).max() <= tolerance
    # One class has a hundredth of the pixels.
    np.testing.assert_allclose(iou, expected[0], atol=10 * tolerance, rtol=0)
    np.testing.assert_allclose(accuracy, expected[1], atol=10 * tolerance, rtol=0)


@pytest.mark.parametrize("arch", ["hr18s", "hr18", "hr48"])
@pytest.mark.parametrize("key", CONFIGS)
def test_odd_images(reference: SimpleNamespace, place: Path, key: str, arch: str) -> None:
    compare(reference, place, arch, key, ODD[key], tolerance=0.01)


@pytest.mark.parametrize("arch", ["hr18s", "hr18", "hr48"])
@pytest.mark.parametrize("key", CONFIGS)
def test_images_that_need_no_resize(reference: SimpleNamespace, place: Path, key: str, arch: str) -> None:
    compare(reference, place, arch, key, FITTING[key], tolerance=0.01)


@pytest.mark.parametrize("key", [key for key in CONFIGS if key not in ("cityscapes", "voc12aug")])
def test_six_scales_and_mirroring(reference: SimpleNamespace, place: Path, key: str) -> None:
    count = 2 if key in ("ade20k", "pascal_context") else 1
    compare(reference, place, "hr18s", key, ODD[key][:count], tolerance=0.01, ms_flip=True)


@pytest.mark.parametrize("key", ["cityscapes", "ade20k", "voc12aug"])
def test_ocrnet(reference: SimpleNamespace, place: Path, key: str) -> None:
    compare(reference, place, "hr18s", key, ODD[key][:2], tolerance=0.05, method="OCRNet")


@pytest.mark.parametrize("key", ["cityscapes", "ade20k", "voc12aug"])
def test_ocrnet_by_six_scales_and_mirroring(reference: SimpleNamespace, place: Path, key: str) -> None:
    """Nearly square images, which are the smallest ones in the box."""
    compare(reference, place, "hr18s", key, [(333, 340)], tolerance=0.05, ms_flip=True, method="OCRNet")


@pytest.mark.parametrize("arch", ["hr32", "hr40"])
def test_backbones_without_a_published_network(reference: SimpleNamespace, arch: str) -> None:
    config = reference.Config.fromfile(reference.configs / "hrnet" / CONFIGS["cityscapes"].format("fcn", "hr48"))
    backbone = config.model.backbone
    for branches in (2, 3, 4):
        backbone.extra[f"stage{branches}"].num_channels = SPECS[arch].widths[:branches]
    theirs = reference.revert_sync_batchnorm(reference.MODELS.build(backbone))
    theirs.eval()  # returns nothing
    ours = create_backbone(arch, pretrained=False, device="cpu")
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(1, 3, 97, 131, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for found, expected in zip(ours(x), theirs(x), strict=True):
            assert torch.equal(found, expected)


def test_the_weights_behave_like_trained_ones() -> None:
    network = trained_like("hr18s", DATASETS["voc12aug"])
    image = scene(9, 189, 251).image
    noise = np.random.default_rng(0).integers(-1, 2, image.shape)
    noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
    mask, other = (network.predict(each).mask for each in (image, noisy))
    assert len(np.unique(mask)) > 10
    assert (mask != other).mean() < 0.05
