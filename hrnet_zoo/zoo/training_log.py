"""Model name -> training log: columns of values by iteration, and a plot of them.

A log is a file of JSON lines, as mmcv writes them: the environment first, then a line every few iterations with `mode`
"train" (iter, lr, loss, decode.acc_seg, memory, ...), and a line after each validation with `mode` "val" (iter, mIoU,
mAcc, aAcc). Nothing here needs torch.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from hrnet_zoo.errors import ConfigError, DownloadError, UnexpectedContentError, printable
from hrnet_zoo.images.figure import new_figure
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.addresses import addresses
from hrnet_zoo.weights.download import fetch
from hrnet_zoo.zoo.catalog import LOCAL, is_saved, model_info

MAX_BYTES = 64 << 20  # a line every 50 iterations makes 1 MB for the longest schedule
MAX_COLUMNS = 1000  # ADE20K with IoU and accuracy of each class has 300; a malicious file may have one for each line
MAX_ITERATIONS = 10**12
MAX_VALUE = 1e100  # plotting larger values overflows
OWN_LOG = "metrics.jsonl"  # in the folder of a fine-tuning

Columns = dict[str, list[Any]]

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class TrainingLog:
    """How a checkpoint was trained.

    A column is a list with one entry per line, in the log's order and under the log's own name; nan where a line lacks
    it. Values are those in the file: mIoU, mAcc and aAcc are fractions in the logs of mmsegmentation 0.x and percent in
    those of some later versions; memory is in MB, time in seconds per iteration. A validation line whose `iter` is
    absent or not between those of the training lines around it, because it counts batches, gets the one before.
    """

    name: str  # of the model
    environment: dict[str, Any]  # env_info (machine and versions, many lines), seed, exp_name, ...
    train: Columns  # "iter", "loss", "decode.acc_seg", "lr", "memory", "time", ...
    val: Columns  # "iter", "mIoU", "mAcc", "aAcc", ...

    @property
    def best(self) -> tuple[float, float] | None:
        """Iteration and mIoU (as in the file) of the best validation, the first of equals; None without one."""
        return max(_points(self.val, "mIoU"), key=lambda point: point[1], default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON: None where a figure is missing, infinite or not a number."""
        facts = {**asdict(self), "best": self.best and {"iter": self.best[0], "mIoU": self.best[1]}}
        ready: dict[str, Any] = json.loads(json.dumps(facts), parse_constant=lambda _: None)  # NaN is no JSON
        return ready

    def save_plot(self, path: str | Path) -> None:
        """Draw loss and mIoU over the iterations into a .png, .svg or .pdf file; an existing one is replaced.

        Raises:
            ConfigError: another ending, or matplotlib is not installed.
            OutputError: the file cannot be written.

        """
        figure, write = new_figure(path, f"the training log of {self.name}", size=(8, 4.5))
        losses = figure.subplots()
        losses.set(xlabel="iteration", ylabel="loss")
        losses.set_title(printable(self.name)[:100], parse_math=False)  # the name of a folder may hold a $
        losses.plot(*_axes(self.train, "loss"), color="tab:blue", linewidth=0.8, label="loss")
        scores = losses.twinx()
        scores.set_ylabel("mIoU, validation")
        scores.plot(*_axes(self.val, "mIoU"), color="tab:orange", marker="o", label="mIoU")
        figure.legend(loc="outside lower center", ncols=2)
        write()


def training_log(name: str, *, progress: bool = True) -> TrainingLog:
    """Return the training log of a published checkpoint, or of a fine-tuned model.

    Published logs are downloaded into the cache like the weights. Their hashes were never published, so only the format
    of every line is checked.

    Args:
        name: catalog name or alias; or the path of a folder that `finetune` made ("runs/a", "local-dir:runs/a").
        progress: show a bar for a download on a terminal, else a line once a minute.

    Raises:
        UnknownModelError: no row has this name.
        ConfigError: the model has no log.
        DownloadError: the log cannot be downloaded (UnexpectedContentError: the file is no log).
        CacheError: the cache cannot be used.

    """
    if is_saved(name):
        folder = Path(os.path.expanduser(name.removeprefix(LOCAL)))  # noqa: PTH111 - never raises, unlike Path's
        try:
            data = (folder / OWN_LOG).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise ConfigError(
                asked=f"the training log of {folder}",
                found=f"it cannot be read: {error}",
                done="nothing was changed",
                advice="name a folder that `hrnet-zoo finetune` made; a model that was copied from one has no log",
            ) from error
        return parse_log(data, str(folder / OWN_LOG), folder.name)
    info = model_info(name)
    if info.log_url is None:
        raise ConfigError(
            asked=f"the training log of {info.name}",
            found="no log of its training was published",
            done="nothing was downloaded",
            advice="the checkpoints that `hrnet-zoo list` names have one each",
        )
    path = _download(info.log_url, progress=progress)
    with cache.disk_errors(path, f"read {path}"):
        data = path.read_bytes()
    return parse_log(data, str(path), info.name)


def parse_log(data: bytes, source: str, name: str) -> TrainingLog:
    """Parse a log's bytes; `source` (path or address) and the model's `name` are for messages.

    Raises:
        UnexpectedContentError: it is no log.

    """
    records, is_cut = _records(data, source)
    if is_cut:
        logger.warning("the training log of %s is cut off in its last line, which is left out", name)
    following, after = list[float](), math.inf  # the iteration of the training line behind each line
    for record in reversed(records):
        following.append(after)
        after = record["iter"] if record.get("mode") == "train" and _is_iteration(record.get("iter")) else after
    before: float = 0
    for record, after in zip(records, reversed(following), strict=True):
        mode, iteration = record.get("mode"), record.get("iter", -1)
        limit = after if after > before else math.inf  # a run that was resumed from further back
        if mode == "train" and _is_iteration(iteration):
            before = iteration
        elif mode == "val" and not (_is_iteration(iteration) and before <= iteration <= limit):
            record["iter"] = before
    return TrainingLog(
        name,
        {key: value for record in records if "mode" not in record for key, value in record.items()},
        *(_columns([record for record in records if record.get("mode") == mode]) for mode in ("train", "val")),
    )


def log_key(url: str) -> str:
    """Return the cache key of a log."""
    return PurePosixPath(urlsplit(url).path).name.removesuffix(".log.json")


def _download(url: str, *, progress: bool) -> Path:
    """Return the path of a published log in the cache, after downloading it if need be."""
    key = log_key(url)
    if cache.is_cached(key, "log"):
        return cache.path_of(key, "log")
    with cache.lock(key):
        if not cache.is_cached(key, "log"):  # another process may have been faster
            partial = cache.claim_partial(key)

            def verify(data: bytes) -> None:
                try:
                    _records(data, url)
                except UnexpectedContentError:
                    cache.discard(partial)  # nothing to resume: the host may have the log next time
                    raise

            try:
                data = fetch(addresses(url), partial, max_bytes=MAX_BYTES, verify=verify, progress=progress)
            except DownloadError as error:  # its advice is about weights
                place = urlsplit(url).path.lstrip("/")
                error.advice = f"check the network; or put the log in a folder as {place}, and set "
                error.advice += "HRNET_ZOO_MIRRORS=file:///FOLDER"
                raise
            cache.publish(key, data, lambda path: verify(path.read_bytes()), "log")
            cache.discard(partial)
            cache.sweep()
    return cache.path_of(key, "log")


def _records(data: bytes, source: str) -> tuple[list[dict[str, Any]], bool]:
    """Return a log's lines, and whether the last one is cut off and left out."""
    records, lines = list[dict[str, Any]](), [line for line in data.splitlines() if line.strip()]
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # RecursionError: brackets without end
            record = None
        if isinstance(record, dict):
            records.append(record)
        elif number < len(lines):
            raise _no_log(source, f"line {number} is no JSON object: {line[:60]!r}")
    if not any(record.get("mode") == "train" or "env_info" in record for record in records):
        raise _no_log(source, "neither a line of training nor the environment")
    if len({key for record in records for key in record}) > MAX_COLUMNS:
        raise _no_log(source, f"more than {MAX_COLUMNS} different keys")
    return records, len(records) < len(lines)


def _columns(records: Sequence[dict[str, Any]]) -> Columns:
    keys = dict.fromkeys(key for record in records for key in record if key != "mode")
    return {key: [math.nan if record.get(key) is None else record[key] for record in records] for key in keys}


def _points(columns: Columns, key: str) -> list[tuple[float, float]]:
    """Return (iteration, value) pairs of a column, without those that cannot be plotted."""
    pairs = zip(columns.get("iter", []), columns.get(key, []), strict=False)
    return [(x, y) for x, y in pairs if _is_iteration(x) and _is_number(y)]


def _axes(columns: Columns, key: str) -> np.ndarray:
    """Return a column's iterations and values as two rows."""
    return np.array(_points(columns, key), dtype=np.float64).reshape(-1, 2).T


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -MAX_VALUE <= value <= MAX_VALUE  # type: ignore[operator]  # nan is not


def _is_iteration(value: object) -> bool:
    return _is_number(value) and 0 <= value <= MAX_ITERATIONS  # type: ignore[operator]


def _no_log(source: str, found: str) -> UnexpectedContentError:
    return UnexpectedContentError(
        asked=f"read the training log {source}",
        found=f"this is no training log: {found}",
        done="nothing was loaded",
        advice="try another host with HRNET_ZOO_MIRRORS; for a file in the cache: hrnet-zoo cache repair",
        url=source,
    )
