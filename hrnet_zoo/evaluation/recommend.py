"""Data set, machine and time limit -> the published network to take."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hrnet_zoo.datasets import CITYSCAPES, DATASETS
from hrnet_zoo.datasets.layouts import check_root
from hrnet_zoo.datasets.pairing import find_images
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines.optimize import OptimizedModel, optimize
from hrnet_zoo.errors import ConfigError, DatasetError, ImageError, printable, raise_on_oom
from hrnet_zoo.evaluation.benchmark import IMAGES
from hrnet_zoo.evaluation.costs import Machine, machine_of
from hrnet_zoo.images.figure import new_figure
from hrnet_zoo.images.formats import open_image
from hrnet_zoo.images.preprocess import resize
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.images.read import RGB
from hrnet_zoo.zoo.catalog import DEMO, ModelInfo, list_models, model_info
from hrnet_zoo.zoo.create import create_model

_SIZES_READ = 100  # images of a folder whose headers are read for the typical size
_SECONDS, _LEAST_RUNS, _MOST_SECONDS = 1.0, 3, 10.0  # of timing, for each network


@dataclass(frozen=True)
class Choice:
    """A published model: its mIoU (percent) as published, and the median milliseconds from image to mask, here.

    `best` says that none of the models that take at most its time has a higher mIoU.
    """

    name: str
    parameters: int
    miou: float
    milliseconds: float
    best: bool


@dataclass(frozen=True)
class Recommendation:
    """Result of `recommend`: the name to take, or None if none keeps to the limit; all choices, the fastest first.

    `height` and `width` are those of the images, in pixels; `form` is the engine and dtype that were timed.
    """

    name: str | None
    max_ms: float | None
    dataset: str
    height: int
    width: int
    machine: Machine
    form: str
    choices: tuple[Choice, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        return asdict(self)

    def save_plot(self, path: str | os.PathLike[str]) -> None:
        """Draw mIoU against time into a .png, .svg or .pdf file; an existing one is replaced.

        Raises:
            ConfigError: another ending, or matplotlib is not installed.
            OutputError: the file cannot be written.

        """
        figure, write = new_figure(path, f"the models of {self.dataset}", size=(8, 5))
        axes = figure.subplots()
        best = [each for each in self.choices if each.best]
        axes.step([each.milliseconds for each in best], [each.miou for each in best], where="post", color="lightgray")
        for each in self.choices:
            axes.plot(each.milliseconds, each.miou, "o", color="tab:green" if each.name == self.name else "tab:blue")
            place = each.milliseconds, each.miou
            axes.annotate(each.name, place, (0, -14), textcoords="offset points", ha="center", fontsize=8)
        if self.max_ms is not None:
            axes.axvline(self.max_ms, linestyle="--", color="tab:red", label=f"limit: {self.max_ms:g} ms")
            axes.legend()
        axes.set(xlim=0, xlabel="from image to mask, median in ms", ylabel="published mIoU in %")
        axes.margins(x=0.2, y=0.2)
        machine = f"{self.machine.device_name}, {self.machine.threads} threads, {self.form}"
        lines = f"{self.dataset}, images of {self.height} x {self.width} pixels", machine
        figure.suptitle("\n".join(map(printable, lines)), parse_math=False, fontsize=10)
        write()


def recommend(
    dataset: str | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    max_ms: float | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Recommendation:
    """Time each published network here, and name the most accurate one that keeps to a limit.

    Nothing is downloaded: the networks have random weights, on which time does not depend, and run in the form that
    `optimize` takes here for the trained demo network. For each network, the row with the highest mIoU stands.

    Args:
        dataset: key of the dataset whose published mIoU counts; default: "cityscapes". How a network will do on classes
            of your own is not known before it is trained, but on each dataset the larger network is the better one.
        data: folder of images, of which the typical size is read; default: the typical size of the dataset's images.
        max_ms: most milliseconds from an image in memory to its mask. None: the most accurate model is named.
        device: None: CUDA if available, otherwise the CPU.
        progress: show a bar on a terminal, else a line once a minute.

    Raises:
        ConfigError: there is no such dataset, the limit is not positive, or the device cannot be used.
        DatasetError: the folder does not exist, or holds no readable image.

    """
    key = CITYSCAPES.key if dataset is None else dataset
    rows = _best_rows(list_models(dataset=key))
    if max_ms is not None and not 0 < max_ms < float("inf"):
        raise ConfigError(
            asked=f"recommend a model with max_ms={max_ms}",
            found="no positive number of milliseconds",
            done="nothing was measured",
            advice="give a number such as 50, or leave the limit out",
        )
    height, width = IMAGES[key] if data is None else _typical_size(Path(data))
    image = resize(scene(0).image, height, width)
    with raise_on_oom(f"time the networks on {height} x {width} pixels"):
        form = optimize(create_model(DEMO.name, device=device, dtype=torch.float32))
        bar = Bar(rows, desc="recommend", unit="network", disable=None if progress else True)
        timed = sorted(((_milliseconds(row, form, image), row) for row in bar), key=lambda each: each[0])
    choices: list[Choice] = []
    for milliseconds, row in timed:
        best = all(row.miou > faster.miou for faster in choices)
        choices.append(Choice(row.name, row.parameters, row.miou, milliseconds, best))
    able = [each.name for each in choices if each.best and (max_ms is None or each.milliseconds <= max_ms)]
    return Recommendation(
        able[-1] if able else None,
        max_ms,
        DATASETS[key].title,
        *(height, width),
        machine_of(form),
        f"{form.engine} {str(form.dtype).removeprefix('torch.')}",
        tuple(choices),
    )


def _best_rows(names: list[str]) -> list[ModelInfo]:
    """Return the row with the highest mIoU of each network."""
    rows: dict[tuple[str, str], ModelInfo] = {}
    for row in map(model_info, names):
        kind = row.method, row.arch
        rows[kind] = max(rows.get(kind, row), row, key=lambda each: each.miou)
    return list(rows.values())


def _typical_size(folder: Path) -> tuple[int, int]:
    """Return the median height and width of a folder's images, as displayed."""
    check_root(folder)
    paths, _ = find_images(folder, folder)
    sizes = []
    for path in paths[:: max(1, len(paths) // _SIZES_READ)]:
        try:
            with open_image(path, whole=False) as header:
                sizes.append(header.displayed)
        except ImageError as error:
            unreadable = error.found
    if not sizes:
        raise DatasetError(
            asked=f"read the size of the images in {folder}",
            found=f"none of {len(paths)} can be read: {unreadable}" if paths else "no image",
            done="nothing was measured",
            advice="name a folder with images, or leave the folder out for the dataset's typical size",
            path=folder,
        )
    width, height = (statistics.median_low(each) for each in zip(*sizes, strict=True))
    return height, width


def _milliseconds(row: ModelInfo, like: OptimizedModel, image: RGB) -> float:
    """Return the median time of a network's prediction, in the engine and dtype of another one."""
    network = create_model(row.name, pretrained=False, device=like.device, dtype=torch.float32)
    form = optimize(network, engine=like.engine, dtype=like.dtype)
    form.predict(image)  # the first one takes longer
    times: list[float] = []
    while sum(times) < (_SECONDS if len(times) >= _LEAST_RUNS else _MOST_SECONDS):
        start = time.perf_counter()
        form.predict(image)  # which waits for the mask
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)
