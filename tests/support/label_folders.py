"""Small folders of labeled images, in each of the layouts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hrnet_zoo.datasets.label_rules import (
    ADE20K_VALUES,
    CITYSCAPES_IDS,
    CITYSCAPES_TRAIN_IDS,
    LabelRule,
    from_one,
    identity,
)


def mask(count: int, size: tuple[int, int] = (12, 8), start: int = 0) -> npt.NDArray[np.uint8]:
    """Make class indices (height, width) that run through `count` classes, for a `size` (width, height)."""
    pixels = np.arange(size[0] * size[1]) + start
    return (pixels % count).astype(np.uint8).reshape(size[1], size[0])


def image(path: Path, size: tuple[int, int] = (12, 8), **options: Any) -> Path:
    """Write an image of one color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(path, **options)
    return path


def labels(path: Path, values: npt.NDArray[Any]) -> Path:
    """Write values as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def cityscapes(
    home: Path, names: Sequence[str] = ("aachen/aachen_0_1", "bonn/bonn_0_2"), split: str = "val", kind: str = "Ids"
) -> Path:
    """Write images with labelIds or labelTrainIds."""
    rule = CITYSCAPES_IDS if kind == "Ids" else CITYSCAPES_TRAIN_IDS
    for name in names:
        image(home / f"leftImg8bit/{split}/{name}_leftImg8bit.png")
        labels(home / f"gtFine/{split}/{name}_gtFine_label{kind}.png", rule.values(mask(19)))
        (home / f"gtFine/{split}/{name}_gtFine_polygons.json").write_text("{}")
    return home


def ade20k(home: Path, names: Sequence[str] = ("ADE_val_1", "ADE_val_2"), split: str = "validation") -> Path:
    """Write images whose labels are class + 1."""
    for name in names:
        image(home / f"images/{split}/{name}.jpg")
        labels(home / f"annotations/{split}/{name}.png", ADE20K_VALUES.values(mask(150, (16, 12))))
        image(home / f"images/{split}/{name}.jpg", (16, 12))
    return home


def _voc(home: Path, names: Sequence[str], split: str, folder: str, lists: str, count: int) -> Path:
    for name in (*names, "not_listed"):
        image(home / f"JPEGImages/{name}.jpg")
        labels(home / f"{folder}/{name}.png", mask(count))
    listing = home / "ImageSets" / lists / f"{split}.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{name}\n" for name in names))
    return home


def voc12(home: Path, names: Sequence[str] = ("2007_1", "2011_2"), split: str = "val") -> Path:
    """Write images of Pascal VOC, of which one more is not listed."""
    return _voc(home, names, split, "SegmentationClass", "Segmentation", 21)


def pascal_context(home: Path, names: Sequence[str] = ("2008_1", "2010_2"), split: str = "val") -> Path:
    """Write images of Pascal Context, of which one more is not listed."""
    return _voc(home, names, split, "SegmentationClassContext", "SegmentationContext", 60)


def tiles(home: Path, names: Sequence[str], rule: LabelRule, split: str = "val", ending: str = "") -> Path:
    """Write tiles of aerial images, BMP files by the name of PNG as those of iSAID are, and palette PNGs as labels."""
    for name in names:
        image(home / f"img_dir/{split}/{name}.png", format="BMP")
        values = Image.fromarray(rule.values(mask(len(rule.of_class))))
        path = home / f"ann_dir/{split}/{name}{ending}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        values.convert("P").save(path)
    return home


def loveda(home: Path, names: Sequence[str] = ("2522", "2523"), split: str = "val") -> Path:
    """Write images whose labels are class + 1."""
    return tiles(home, names, from_one(7), split)


def potsdam(home: Path, names: Sequence[str] = ("2_13_0_0_512_512", "2_13_512_0_1024_512"), split: str = "val") -> Path:
    """Write tiles whose labels are class + 1."""
    return tiles(home, names, from_one(6), split)


def vaihingen(
    home: Path, names: Sequence[str] = ("area6_0_0_512_512", "area6_512_0_1024_512"), split: str = "val"
) -> Path:
    """Write tiles whose labels are class + 1."""
    return tiles(home, names, from_one(6), split)


def isaid(home: Path, names: Sequence[str] = ("P0003_0_896_0_896", "P0003_0_896_512_1408"), split: str = "val") -> Path:
    """Write tiles whose labels are the classes, in files whose names say more."""
    return tiles(home, names, identity(16), split, "_instance_color_RGB")


def own(home: Path, names: Sequence[str] = ("a", "deep/b"), classes: Sequence[str] = ()) -> Path:
    """Write a folder of one's own, with a class list if there are classes."""
    for name in names:
        image(home / f"images/{name}.jpg")
        labels(home / f"masks/{name}.png", mask(max(len(classes), 3)))
    if classes:
        (home / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    return home
