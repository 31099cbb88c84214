"""The result of an evaluation: figures, the published one next to them, and the likely cause of a hopeless one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_zoo.datasets import CITYSCAPES, Dataset
from hrnet_zoo.datasets.label_rules import CITYSCAPES_IDS
from hrnet_zoo.errors import printable
from hrnet_zoo.evaluation.metrics import Counts, class_accuracy, class_iou, mean, pixel_accuracy
from hrnet_zoo.images.atomic import atomic_write

SUSPICIOUS_MIOU = 5.0  # percent; below it, labels and network number the classes differently


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The score of a model on a set of labeled images.

    Attributes:
        model: its name.
        classes: names by index.
        counts: (K, K) int64, pixels by true class (row) and predicted class (column), without ignored pixels.
        images: how many there were.
        published: mIoU in percent that the catalog states for these weights and this protocol; None if it states none,
            or for another number of images.
        published_on: the dataset of the published figure.
        suspicion: the likely cause of an mIoU below 5 %; else None.
        protocol: how the figures were made, ready for JSON.

    """

    model: str
    classes: tuple[str, ...]
    counts: Counts
    images: int
    published: float | None
    published_on: str
    suspicion: str | None
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def miou(self) -> float:
        """Mean intersection over union of the classes that occur, percent."""
        return 100 * mean(class_iou(self.counts))

    @property
    def macc(self) -> float:
        """Mean class accuracy, percent."""
        return 100 * mean(class_accuracy(self.counts))

    @property
    def aacc(self) -> float:
        """Pixel accuracy, percent."""
        return 100 * pixel_accuracy(self.counts)

    @property
    def difference(self) -> float | None:
        """Measured minus published mIoU, in points; None if none is published."""
        return None if self.published is None else self.miou - self.published

    @property
    def per_class(self) -> dict[str, tuple[float, float]]:
        """IoU and accuracy by class name, percent; nan for a class that does not occur."""
        iou, accuracy = 100 * class_iou(self.counts), 100 * class_accuracy(self.counts)
        return {name: (float(iou[i]), float(accuracy[i])) for i, name in enumerate(self.classes)}

    def to_dict(self) -> dict[str, Any]:
        """Return all figures (percent, None for nan) and the protocol, ready for JSON."""
        return {
            "model": self.model,
            "miou": _known(self.miou),
            "macc": _known(self.macc),
            "aacc": _known(self.aacc),
            "published_miou": self.published,
            "difference": _known(self.difference),
            "images": self.images,
            "per_class": {name: {"iou": _known(i), "acc": _known(a)} for name, (i, a) in self.per_class.items()},
            "suspicion": self.suspicion,
            **self.protocol,
        }

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict()` to a file.

        Raises:
            OutputError: it cannot be written.

        """
        atomic_write(Path(path), (json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode())

    def __str__(self) -> str:
        """Return the figures as a table."""
        return "\n".join(map(printable, self.lines()))

    def lines(self) -> list[str]:
        """Return the lines of the table, with class names unquoted."""
        wide = max(map(len, (*self.classes, "mean")))
        lines = [f"{'class':<{wide}} {'IoU':>7} {'Acc':>7}"]
        for name, (iou, accuracy) in self.per_class.items():
            lines.append(f"{name:<{wide}} {_cell(iou)} {_cell(accuracy)}")
        lines.append(f"{'mean':<{wide}} {_cell(self.miou)} {_cell(self.macc)}")
        lines.append("")
        lines.append(f"{self.model}: mIoU {self.miou:.2f}, mAcc {self.macc:.2f}, aAcc {self.aacc:.2f}")
        if self.published is not None and self.difference is not None:
            lines[-1] += f"; published {self.published:.2f} on {self.published_on}, difference {self.difference:+.2f}"
        whole = self.protocol.get("val_images")  # that the published figures are of
        count = f"{self.images} of {whole}" if whole and self.images != whole else str(self.images)
        part = " (a part only)" if self.protocol.get("limit") else ""
        return [*lines, f"{count} images{part}; {self.protocol.get('summary', '')}"]


def suspicion(counts: Counts, dataset: Dataset) -> str | None:
    """Return the likely cause of an mIoU below 5 %: score the labels under other numberings. None above 5 %."""
    measured = 100 * mean(class_iou(counts))
    if not measured < SUSPICIOUS_MIOU:
        return None
    number = len(counts)
    readings = {
        "the labels begin at 1: every value is one more than its class": np.arange(number) - 1,
        "the labels were reduced twice: every value is one less than its class": np.arange(number) + 1,
    }
    if dataset.classes == CITYSCAPES.classes:
        official = CITYSCAPES_IDS.indices(np.arange(number, dtype=np.uint8)).astype(np.intp)
        readings["the labels hold official ids, not train ids"] = official
        # Labels read as official ids: class 0 stands for the value 7, which is also a train id.
        trained = CITYSCAPES_IDS.values(np.arange(number, dtype=np.uint8)).astype(np.intp)
        readings["the labels hold train ids, not official ids"] = trained
    scores = {}
    for cause, index in readings.items():
        known = (index >= 0) & (index < number)  # 255 is "ignored"
        moved = np.zeros_like(counts)
        np.add.at(moved, index[known], counts[known])
        scores[cause] = 100 * mean(class_iou(moved))
    cause = max(scores, key=lambda each: scores[each])
    if scores[cause] > max(SUSPICIOUS_MIOU, 2 * measured):
        return f"{cause} (read that way, mIoU would be {scores[cause]:.1f} %)"
    return (
        "the labels are numbered differently from the model's classes (ids or train ids, from 0 or 1, another "
        "dataset), or the weights were not trained for these classes"
    )


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value


def _cell(value: float) -> str:
    return f"{'-':>7}" if np.isnan(value) else f"{value:7.2f}"
