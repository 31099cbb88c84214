"""Score a model on labeled images by the protocol of the published table."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import torch

from hrnet_zoo import __version__
from hrnet_zoo.datasets.check import MOSTLY_ABSENT, inspect_pairs, judge, require_sound
from hrnet_zoo.datasets.label_rules import LabelRule
from hrnet_zoo.datasets.layouts import LabeledFolder, find_samples
from hrnet_zoo.datasets.pairing import Sample
from hrnet_zoo.engines.optimize import OptimizedModel, optimized
from hrnet_zoo.errors import ConfigError, DatasetError, printable, raise_on_oom
from hrnet_zoo.evaluation.confusion import draw_confusion
from hrnet_zoo.evaluation.ranks import Ranks, environment_number, join
from hrnet_zoo.images.atomic import atomic_write
from hrnet_zoo.images.bands import Pixels, read_bands
from hrnet_zoo.images.label_maps import read_labels
from hrnet_zoo.images.prefetch import prefetch_in_processes
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.images.read import read_image
from hrnet_zoo.inference.logits import check_max_memory
from hrnet_zoo.inference.masks import make_mask
from hrnet_zoo.inference.metrics import (
    LEVEL,
    RESAMPLES,
    SEED,
    Counts,
    Shares,
    bootstrap_miou,
    class_accuracy,
    class_f1,
    class_iou,
    class_precision,
    class_totals,
    count_matrix,
    mean,
    pixel_accuracy,
)
from hrnet_zoo.inference.predict import MS_RATIOS, evaluating, resized, view_logits
from hrnet_zoo.models.fcn import FCNHRNet, require_network

MOST_WORKERS = 8
STOPPED = "the run was stopped: skipping images would change the mIoU"
IMAGES_PER_ROUND = 16  # after which several processes tell each other about errors
SUSPICIOUS_MIOU = 5.0  # percent
SUSPICION = (
    "the labels are probably numbered differently from the model's classes (ids or train ids, from 0 or 1, another "
    "dataset), or the weights were not trained for these classes"
)

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The score of a model on a number of labeled images.

    `counts` is (K, K) int64: pixels by true class (row) and predicted class (column), without ignored pixels.
    `published` is the mIoU in percent that the catalog states for these weights, this protocol and as many images, or
    None. `protocol` says how the figures were made, ready for JSON. `totals` is (N, 3, K) int64: the pixels of each
    image, in order, by class, that are correct, true and predicted; None: unknown.
    """

    model: str
    classes: tuple[str, ...]
    counts: Counts
    images: int
    published: float | None
    protocol: dict[str, Any] = field(default_factory=dict)
    totals: Counts | None = None

    @property
    def miou(self) -> float:
        """Mean intersection over union of the classes that occur, percent."""
        return 100 * mean(class_iou(self.counts))

    @cached_property
    def miou_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mIoU, percent, by a seeded bootstrap over the images; None for fewer than two.

        It tells how much the mIoU depends on which images were labeled: 1,000 times as many images are drawn with
        replacement, and the middle 95 % of their mIoUs are taken.
        """
        low, high = (np.nan, np.nan) if self.totals is None else bootstrap_miou(self.totals)
        return None if np.isnan(low) else (100 * low, 100 * high)

    @property
    def macc(self) -> float:
        """Mean class accuracy, percent."""
        return 100 * mean(class_accuracy(self.counts))

    @property
    def aacc(self) -> float:
        """Pixel accuracy, percent."""
        return 100 * pixel_accuracy(self.counts)

    @property
    def precision(self) -> dict[str, float]:
        """Precision by class name, percent; nan for a class that is never predicted."""
        return self._by_name(class_precision(self.counts))

    @property
    def recall(self) -> dict[str, float]:
        """Recall by class name, percent: the class accuracy; nan for a class that does not occur."""
        return self._by_name(class_accuracy(self.counts))

    @property
    def f1(self) -> dict[str, float]:
        """F1 score (Dice coefficient) by class name, percent; nan for a class neither true nor predicted."""
        return self._by_name(class_f1(self.counts))

    @property
    def mean_precision(self) -> float:
        """Mean precision of the classes that are predicted, percent."""
        return 100 * mean(class_precision(self.counts))

    @property
    def mean_f1(self) -> float:
        """Mean F1 score of the classes that occur or are predicted, percent. The mean recall is `macc`."""
        return 100 * mean(class_f1(self.counts))

    @property
    def difference(self) -> float | None:
        """Measured minus published mIoU, in points; None if none is published."""
        return None if self.published is None else self.miou - self.published

    @property
    def suspicion(self) -> str | None:
        """The likely cause of an mIoU below 5 %; else None."""
        return SUSPICION if self.miou < SUSPICIOUS_MIOU else None

    @property
    def per_class(self) -> dict[str, tuple[float, float]]:
        """IoU and accuracy by class name, percent; nan for a class that does not occur."""
        iou, accuracy = 100 * class_iou(self.counts), 100 * class_accuracy(self.counts)
        return {name: (float(iou[i]), float(accuracy[i])) for i, name in enumerate(self.classes)}

    def save_confusion(self, path: str | Path) -> None:
        """Draw the confusion matrix, each row as percent of its true class, into a .png, .svg or .pdf (extra `plot`).

        Raises:
            ConfigError: another ending, or matplotlib is not installed.
            OutputError: the file cannot be written.

        """
        draw_confusion(path, self.counts, self.classes, f"{self.model}: mIoU {self.miou:.2f}, {self.images} images")

    def to_dict(self) -> dict[str, Any]:
        """Return all figures (percent, None for nan) and the protocol, ready for JSON.

        `confusion_matrix` is `counts` as lists; its rows and columns are in the order of `per_class`.
        """
        by_class = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {
            "model": self.model,
            "miou": _known(self.miou),
            "miou_interval": self.miou_interval and list(self.miou_interval),
            "macc": _known(self.macc),
            "aacc": _known(self.aacc),
            "mean_precision": _known(self.mean_precision),
            "mean_recall": _known(self.macc),
            "mean_f1": _known(self.mean_f1),
            "published_miou": self.published,
            "difference": _known(self.difference),
            "images": self.images,
            "per_class": {
                name: {"iou": _known(i), "acc": _known(a), **{key: _known(by_class[key][name]) for key in by_class}}
                for name, (i, a) in self.per_class.items()
            },
            "suspicion": self.suspicion,
            **self.protocol,
            "confusion_matrix": self.counts.tolist(),
        }

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict()` to a file.

        Raises:
            OutputError: it cannot be written.

        """
        atomic_write(Path(path), (json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode())

    def __str__(self) -> str:
        """Return the figures as a table."""
        wide = max(map(len, (*self.classes, "mean")))
        precision, f1 = self.precision, self.f1
        lines = [f"{'class':<{wide}} {'IoU':>7} {'Acc':>7} {'Prec':>7} {'F1':>7}"]
        for name, (iou, accuracy) in self.per_class.items():
            lines.append(" ".join([f"{name:<{wide}}", *map(_cell, (iou, accuracy, precision[name], f1[name]))]))
        means = (self.miou, self.macc, self.mean_precision, self.mean_f1)
        lines.append(" ".join([f"{'mean':<{wide}}", *map(_cell, means)]))
        figures = f"{self.model}: mIoU {self.miou:.2f}, mAcc {self.macc:.2f}, aAcc {self.aacc:.2f}"
        if self.published is not None:
            figures += f"; published {self.published:.2f}, difference {self.difference:+.2f}"
        lines += ["", figures]
        if note := self.protocol.get("published_figures"):
            lines.append(f"published figures of this dataset are {note}")
        if self.miou_interval:
            lines.append("mIoU, 95 % interval by a bootstrap over images: {:.2f} to {:.2f}".format(*self.miou_interval))
        whole = self.protocol.get("val_images")  # that the published figures are of
        count = f"{self.images} of {whole}" if whole and self.images != whole else str(self.images)
        part = " (a part only)" if self.protocol.get("limit") else ""
        lines.append(f"{count} images{part}; {self.protocol.get('summary', '')}")
        return "\n".join(map(printable, lines))

    def _by_name(self, shares: Shares) -> dict[str, float]:
        return {name: 100 * float(share) for name, share in zip(self.classes, shares, strict=True)}


def evaluate(
    model: FCNHRNet | OptimizedModel,
    data_root: str | Path,
    *,
    ms_flip: bool = False,
    fast: bool = False,
    limit: int | None = None,
    workers: int | None = None,
    max_memory: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score a model on labeled images by the protocol of its dataset, which the published table follows.

    Under `torchrun`, or in an existing process group, the processes share the images; all of them return the same
    figures, identical to those of one process.

    Args:
        model: the network, or its optimized form.
        data_root: the model's dataset as downloaded, or a folder with `images/` and `masks/` whose
            values are class indices (see `hrnet_zoo.datasets.layouts`).
        ms_flip: average six scales, each also mirrored: about 17 times slower.
        fast: use `hrnet_zoo.optimize(model)`: several times faster, with other rounding. The default gives the
            published figures to the last digit.
        limit: only the first images, for a quick look.
        workers: processes that read and resize ahead of the network; 0: none; None: see `default_workers`.
        max_memory: as in `predict`.
        progress: show a bar on a terminal, else a line once a minute.

    Raises:
        DatasetError: the folder is not what was looked for, something in it is wrong, or no pixel is of a class.
        ImageError: an image cannot be read.
        ConfigError: an argument is invalid, or memory ran out.
        ProcessError: a worker, or one of several processes, died.

    """
    if not isinstance(model, OptimizedModel):
        require_network(model, f"evaluate on {data_root}")
    for name, value, least in (("limit", limit, 1), ("workers", workers, 0)):
        if value is not None and value < least:
            raise ConfigError(
                asked=f"evaluate with {name}={value}",
                found=f"{name} is at least {least}",
                done="nothing was computed",
                advice=f"correct it, or leave {name} out",
            )
    check_max_memory(max_memory)
    workers = default_workers() if workers is None else workers
    model = optimized(model) if fast and isinstance(model, FCNHRNet) else model
    with join(model.device) as ranks:
        found = _same_everywhere(ranks, lambda: find_samples(data_root, model.dataset))
        limit = None if limit is None or limit >= len(found.samples) else limit  # all images are no subset
        folder = replace(found, samples=found.samples[:limit])
        _refuse_faults(folder, ranks, progress, limited=limit is not None)
        counts, totals = count_pixels(
            *(model, folder, ranks), ms_flip=ms_flip, workers=workers, max_memory=max_memory, progress=progress
        )
        evaluation = _summary(model, folder, counts, totals, ms_flip, limit)
        if evaluation.suspicion and ranks.rank == 0:
            logger.warning("mIoU is below %g %%: %s", SUSPICIOUS_MIOU, evaluation.suspicion)
    return evaluation


def default_workers() -> int:
    """Return how many processes read ahead: half the available processors, from 1 to 8, shared under torchrun.

    Only on Linux: elsewhere each worker would import torch and the user's script again.
    """
    if sys.platform != "linux":
        return 0
    processes = environment_number("LOCAL_WORLD_SIZE", "1", range(1, 1 << 31))
    return min(MOST_WORKERS, max(1, len(os.sched_getaffinity(0)) // (2 * processes)))


def count_pixels(
    model: FCNHRNet | OptimizedModel,
    folder: LabeledFolder,
    ranks: Ranks,
    *,
    ms_flip: bool,
    workers: int,
    max_memory: int | None,
    progress: bool,
) -> tuple[Counts, Counts]:
    """Count the pixels of a folder. The ranks share it and return the same counts.

    Arguments and errors are those of `evaluate`. All ranks stop within `IMAGES_PER_ROUND` images after one failed.

    Returns:
        (K, K) by true and predicted class, and `class_totals` of each image: (N, 3, K).

    """
    count = len(model.classes)
    total = np.zeros((count, count), np.int64)
    totals = np.zeros((len(folder.samples), 3, count), np.int64)
    mine = folder.samples[ranks.rank :: ranks.size]
    samples = iter(mine)
    load = partial(_load, resize_to=model.dataset.resize_to, ms_flip=ms_flip, rule=folder.rule, bands=folder.bands)
    rounds = -(-len(folder.samples) // (ranks.size * IMAGES_PER_ROUND))  # of the largest share: the same on all ranks
    shown = progress and ranks.rank == 0
    with (
        evaluating(model) as network,
        Bar(total=len(mine), desc="evaluate", unit="image", disable=None if shown else True) as bar,
        closing(prefetch_in_processes(mine, load, workers)) as prepared,
    ):

        def work() -> tuple[Counts, list[Counts]]:
            counts, of_images = np.zeros_like(total), []
            for sample in islice(samples, IMAGES_PER_ROUND):
                with raise_on_oom(
                    f"evaluate {model.name} on {sample.image}",
                    done=STOPPED,
                    advice="use fewer workers, float16, a smaller network, or an idle device",
                ):
                    images, truth = next(prepared)
                    views = view_logits(network, images, slide=model.dataset.sliding_window, flip=ms_flip)
                    mask = make_mask(views, truth.shape[0], truth.shape[1], max_memory)
                    counted = count_matrix(truth, mask, count)
                counts += counted
                of_images.append(class_totals(counted))
                bar.update()
            return counts, of_images

        for number in range(rounds):
            for rank, (counts, of_images) in enumerate(ranks.all_gather(work)):
                total += counts
                for place, each in enumerate(of_images, number * IMAGES_PER_ROUND):
                    totals[rank + place * ranks.size] = each
    return total, totals


def _same_everywhere(ranks: Ranks, find: Callable[[], LabeledFolder]) -> LabeledFolder:
    """Return the folder if every rank sees the same images."""
    folders = ranks.all_gather(find)
    seen = [([sample.name for sample in folder.samples], folder.rule) for folder in folders]
    for rank, (names, _) in enumerate(seen):
        if seen[rank] != seen[0]:
            raise DatasetError(
                asked=f"evaluate on {folders[0].root} with {ranks.size} processes",
                found=f"process 0 sees {len(seen[0][0])} images, process {rank} sees {len(names)}, or different ones",
                done="nothing was computed",
                advice="give every machine the same copy of the data",
                path=folders[0].root,
            )
    return folders[ranks.rank]


def _refuse_faults(folder: LabeledFolder, ranks: Ranks, progress: bool, *, limited: bool) -> None:
    """Check the folder before the network runs; each rank checks its share."""
    mine = replace(folder, samples=folder.samples[ranks.rank :: ranks.size])
    shares = ranks.all_gather(lambda: inspect_pairs(mine, decode=False, progress=progress and ranks.rank == 0))
    problems = judge(folder, [inspection for share in shares for inspection in share])
    if limited:  # in a few images most classes may well be absent
        problems = [problem for problem in problems if problem.kind != MOSTLY_ABSENT]
    require_sound("evaluate on", folder, problems, tell=ranks.rank == 0)


def _load(
    sample: Sample, *, resize_to: tuple[int, int], ms_flip: bool, rule: LabelRule, bands: Sequence[str] = ()
) -> tuple[list[Pixels], npt.NDArray[np.uint8]]:
    """Read an image at each size that the network takes, and its labels as class indices."""
    image, labels = read_pair(sample, rule, bands)
    return resized(image, resize_to, ms_flip), labels


def read_pair(sample: Sample, rule: LabelRule, bands: Sequence[str] = ()) -> tuple[Pixels, npt.NDArray[np.uint8]]:
    """Read an image and its label map (H, W) uint8: class indices, 255 ignored.

    The image is (H, W, 3) uint8 RGB, or with `bands` (H, W, bands) float32 in the values of its file.

    Raises:
        ImageError: a file cannot be read.
        DatasetError: no label map, one of another size than the image, or one with values of no class.

    """
    image = read_bands(sample.image, bands) if bands else read_image(sample.image)
    values = read_labels(sample.labels)
    if image.shape[:2] != values.shape:
        found = "the image has {1} x {0} pixels, the labels have {3} x {2}".format(*image.shape[:2], *values.shape)
        advice = "images and labels must have the same size, as displayed"
    elif unknown := rule.unknown(np.flatnonzero(np.bincount(values.ravel(), minlength=256))):
        found = f"the values {', '.join(map(str, unknown[:20]))} are not classes; the rule here: {rule.title}"
        advice = "run `hrnet-zoo check-data` on the folder for details"
    else:
        return image, rule.indices(values)
    raise DatasetError(
        asked=f"read {sample.image} with the labels {sample.labels}",
        found=found,
        done=STOPPED,
        advice=advice,
        path=sample.labels,
    )


def _summary(
    model: FCNHRNet | OptimizedModel,
    folder: LabeledFolder,
    counts: Counts,
    totals: Counts,
    ms_flip: bool,
    limit: int | None,
) -> Evaluation:
    dataset, info, weights, device = model.dataset, model.info, model.provenance, model.device
    whole = dataset.val_images if folder.key else 0
    published = None
    if info is not None and weights.get("model") == info.name and not limit and len(folder.samples) == whole:
        published = info.miou_ms_flip if ms_flip else info.miou
    mode = "windows of {} px every {} px".format(*dataset.window) if dataset.sliding_window else "whole image"
    exact = str(model.dtype).removeprefix("torch.")
    engine, dtype = (model.engine, model.precision) if isinstance(model, OptimizedModel) else ("exact", exact)
    scales, ratios = ("six scales and mirroring", MS_RATIOS) if ms_flip else ("one scale", (1.0,))
    protocol = {
        "summary": f"{f'{folder.title} {folder.split}'.strip()}, {scales}, {mode}, {dtype} on {device.type}"
        + (f", optimized ({engine})" if engine != "exact" else ""),
        "data": {"layout": folder.title, "split": folder.split, "labels": folder.rule.title},
        "limit": limit,
        "val_images": whole or None,
        "published_figures": (dataset.figures_note if whole else "") or None,
        "inference": {"resize_to": dataset.resize_to, "mode": mode, "scales": ratios, "flip": ms_flip},
        "weights": {key: weights[key] for key in ("source_url", "source_sha256", "data_sha256") if key in weights},
        "bootstrap": {"resamples": RESAMPLES, "level": LEVEL, "seed": SEED},
        "engine": engine,
        "dtype": dtype,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": {
            "hrnet_zoo": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "python": platform.python_version(),
        },
    }
    return Evaluation(model.name, model.classes, counts, len(folder.samples), published, protocol, totals)


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value


def _cell(value: float) -> str:
    return f"{'-':>7}" if np.isnan(value) else f"{value:7.2f}"
