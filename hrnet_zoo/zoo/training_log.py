"""Model name -> training log: columns of values by iteration, and a plot of them.

A log is a file of JSON lines, as mmcv writes them: the environment first, then a line every few iterations with `mode`
"train" (iter, lr, loss, decode.acc_seg, memory, ...), and a line after each validation with `mode` "val" (iter, mIoU,
mAcc, aAcc). Nothing here needs torch.
"""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from hrnet_zoo.errors import ConfigError, DownloadError, UnexpectedContentError, install, printable
from hrnet_zoo.images.atomic import atomic_write
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.addresses import addresses
from hrnet_zoo.weights.cache import disk_errors
from hrnet_zoo.weights.download import fetch
from hrnet_zoo.zoo.catalog import LOCAL, is_saved, model_info

MAX_BYTES = 64 << 20  # a line every 50 iterations makes 1 MB for the longest schedule
MAX_COLUMNS = 1000  # ADE20K with IoU and accuracy of each class has 300; a malicious file may have one for each line
MOST_ITERATIONS = 10**12
LARGEST = 1e100  # plotting larger values overflows
OWN_LOG = "metrics.jsonl"  # in the folder of a fine-tuning
PLOT_FORMATS = ("png", "svg", "pdf")

Columns = dict[str, list[Any]]

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class TrainingLog:
    """How a checkpoint was trained.

    A column is a list with one entry per line, in the log's order and under the log's own name; nan where a line lacks
    it. Values are as in the file, and not rescaled: mIoU, mAcc and aAcc are fractions in the logs of mmsegmentation
    0.x and percent in those of some later versions.

    Attributes:
        name: canonical name of the model.
        environment: the log's first line: env_info (machine and versions, many lines), seed, exp_name, ...
        train: columns of the training lines: "iter", "loss", "decode.acc_seg" (percent), "lr", "memory" (MB),
            "time" (seconds per iteration), ... Of an `lr` that is a list, the first entry is here, the others are under
            "lr[1]", "lr[2]", ...
        val: columns of the validation lines: "iter", "mIoU", "mAcc", "aAcc", ... Some versions wrote the number of
            validation batches as `iter`: such a line gets the iteration of the training line before it, and
            "iter_in_file" holds what the file says.

    """

    name: str
    environment: dict[str, Any]
    train: Columns
    val: Columns

    @property
    def best(self) -> tuple[float, float] | None:
        """Iteration and mIoU (as in the file) of the best validation, the first of equals; None without one."""
        return max(_points(self.val, "mIoU"), key=lambda point: point[1], default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON: None where a figure is missing, infinite or not a number."""
        best = self.best and {"iter": self.best[0], "mIoU": self.best[1]}
        facts = {"name": self.name, "environment": self.environment, "best": best, "train": self.train, "val": self.val}
        ready: dict[str, Any] = json.loads(json.dumps(facts), parse_constant=lambda _: None)  # NaN is no JSON
        return ready

    def save_plot(self, path: str | Path) -> None:
        """Draw loss and mIoU over the iterations into a .png, .svg or .pdf file; an existing one is replaced.

        Raises:
            ConfigError: another ending, or matplotlib is not installed.
            OutputError: the file cannot be written.

        """
        path = Path(path)
        kind = path.suffix.lower().removeprefix(".")
        if kind not in PLOT_FORMATS:
            raise ConfigError(
                asked=f"draw the training log of {self.name} as {path}",
                found=f"the ending {path.suffix!r}",
                done="nothing was drawn",
                advice=f"give a file that ends in .{', .'.join(PLOT_FORMATS)}",
            )
        try:
            from matplotlib.figure import Figure  # without pyplot there is no state to share, and no display
        except ImportError as error:
            raise ConfigError(
                asked=f"draw the training log of {self.name}",
                found=f"matplotlib cannot be imported ({error})",
                done="nothing was drawn",
                advice=install("plot"),
            ) from error
        figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
        losses = figure.subplots()
        losses.set(xlabel="iteration", ylabel="loss")
        losses.set_title(printable(self.name)[:100], parse_math=False)  # the name of a folder may hold a $
        losses.plot(*_axes(_points(self.train, "loss")), color="tab:blue", linewidth=0.8, label="loss")
        scores = losses.twinx()
        scores.set_ylabel("mIoU, validation")
        scores.plot(*_axes(_points(self.val, "mIoU")), color="tab:orange", marker="o", label="mIoU")
        figure.legend(loc="outside lower center", ncols=2)
        file = io.BytesIO()
        figure.savefig(file, format=kind)
        atomic_write(path, file.getvalue())


def training_log(name: str, *, progress: bool = True) -> TrainingLog:
    """Return the training log of a published checkpoint, or of a fine-tuned model.

    Published logs are downloaded into the cache like the weights (resume, mirrors, offline switch). Their hashes were
    never published, so only the format of every line is checked.

    Args:
        name: catalog name or alias; or the path of a folder that `finetune` made ("runs/a", "local-dir:runs/a").
        progress: show a bar for a download on a terminal.

    Raises:
        UnknownModelError: no row has this name.
        ConfigError: the model has no log ("demo").
        DownloadError: the log cannot be had (UnexpectedContentError: what came is no log).
        CacheError: the cache cannot be used.

    """
    if is_saved(name):
        return _own_log(Path(name.removeprefix(LOCAL)))
    info = model_info(name)
    if info.log_url is None:
        raise ConfigError(
            asked=f"the training log of {info.name}",
            found="no log of its training was published",
            done="nothing was fetched",
            advice="the checkpoints that `hrnet-zoo list` names have one each",
        )
    url = info.log_url
    data = _cached(url, progress=progress)
    try:
        return parse_log(data, url, info.name)
    except UnexpectedContentError as error:
        # Damaged in the cache, not by this library: download it once more.
        logger.warning("%s is damaged (%s); it is fetched again", cache.log_path(log_key(url)), error.found)
        cache.clear(log_key(url))
        return parse_log(_cached(url, progress=progress), url, info.name)


def parse_log(data: bytes, source: str, name: str) -> TrainingLog:
    """Read a log's bytes; `source` (path or address) and the model's `name` are for messages.

    Raises:
        UnexpectedContentError: it is no log.

    """
    records, cut = _records(data, source)
    if cut:
        logger.warning("the training log of %s is cut off in its last line, which is left out", name)
    if other := {str(record.get("mode", "")) for record in records} - {"", "train", "val"}:
        logger.warning("the training log of %s has lines of other modes, left out: %.200r", name, sorted(other))
    _set_iterations(records)
    counted = [record for record in records if record.get("mode") in ("train", "val")]
    if wrong := sum(not _is_iteration(record.get("iter")) for record in counted):
        logger.warning(
            "the training log of %s: %d of %d lines have no `iter` from 0 to %g; `best` and the plot leave them out",
            *(name, wrong, len(counted), MOST_ITERATIONS),
        )
    return TrainingLog(
        name,
        {key: value for record in records if "mode" not in record for key, value in record.items()},
        *(_columns([record for record in records if record.get("mode") == mode]) for mode in ("train", "val")),
    )


def _own_log(folder: Path) -> TrainingLog:
    file = folder / OWN_LOG
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            asked=f"the training log of {folder}",
            found=f"{file} cannot be read: {error.strerror}",
            done="nothing was changed",
            advice="name a folder that `hrnet-zoo finetune` made; a model that was copied from one has no log",
        ) from error
    return parse_log(data, str(file), folder.name)


def log_key(url: str) -> str:
    """Name of a log's file in the cache."""
    return PurePosixPath(urlsplit(url).path).name.removesuffix(".log.json")


def _cached(url: str, *, progress: bool) -> bytes:
    """Return the log of an address from the cache; fetch, verify and publish it first if it is not there."""
    key = log_key(url)
    if not cache.is_cached(key, "log"):
        with cache.lock(key):
            if not cache.is_cached(key, "log"):  # another process may have been faster
                _fetch(url, key, progress=progress)
    final = cache.log_path(key)
    with disk_errors(final, f"read the training log {key}"):
        return final.read_bytes()


def _fetch(url: str, key: str, *, progress: bool) -> None:
    partial = cache.claim_partial(key, "log")

    def verify(data: bytes) -> None:
        try:
            _records(data, url)
        except UnexpectedContentError:
            cache.discard(partial)  # nothing to resume: the host may have the log next time
            raise

    try:
        data = fetch(addresses(url), partial, max_bytes=MAX_BYTES, verify=verify, progress=progress)
    except DownloadError as error:  # its advice is about weights
        error.advice = (
            "check the network, the proxy and HRNET_ZOO_OFFLINE, and run the same again; or bring the log by hand: "
            f"lay it below a folder as {urlsplit(url).path.lstrip('/')}, and name the folder in HRNET_ZOO_MIRRORS as "
            "file:///FOLDER"
        )
        raise

    cache.publish(key, data, lambda path: verify(path.read_bytes()), "log")
    cache.discard(partial)
    cache.sweep()


def _records(data: bytes, url: str) -> tuple[list[dict[str, Any]], bool]:
    """Read the lines of a log, and whether its last one is cut off; UnexpectedContentError if it is no log."""
    lines = [(number, line) for number, line in enumerate(data.splitlines(), start=1) if line.strip()]
    records, cut = list[dict[str, Any]](), False
    for number, line in lines:
        record = _record(line)
        if record is not None:
            records.append(record)
        elif number == lines[-1][0]:
            cut = True
        else:
            raise _no_log(url, f"line {number} is no JSON object: {line[:60]!r}")
    if not any(record.get("mode") == "train" or "env_info" in record for record in records):
        raise _no_log(url, "neither a line of training nor the environment")
    if len({key for record in records for key in record}) > MAX_COLUMNS:
        raise _no_log(url, f"more than {MAX_COLUMNS} different keys")
    return records, cut


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line, parse_int=_whole)
    except (ValueError, RecursionError):  # RecursionError: brackets without end
        return None
    if not isinstance(record, dict):
        return None
    rates = record.get("lr")
    if isinstance(rates, list):  # one for each group of parameters
        record["lr"] = rates[0] if rates else math.nan
        record |= {f"lr[{index}]": rate for index, rate in enumerate(rates) if index}
    return record


def _whole(digits: str) -> float:
    """Parse an integer; a huge one as a float, which every later step can handle."""
    return int(digits) if len(digits) < 20 else float(digits)


def _set_iterations(records: Sequence[dict[str, Any]]) -> None:
    """Replace the `iter` of validation lines that count something else by that of the training line before.

    It is an iteration if it lies between those of the training lines before and after it.
    """
    train: list[float | None] = [
        record["iter"] if record.get("mode") == "train" and _is_iteration(record.get("iter")) else None
        for record in records
    ]
    afters: list[float] = [math.inf] * len(records)  # the training iteration that follows each line
    for index in range(len(records) - 2, -1, -1):
        following = train[index + 1]
        afters[index] = afters[index + 1] if following is None else following
    before: float | None = None
    changed = dict[int, Any]()
    for index, record in enumerate(records):
        if train[index] is not None:
            before = train[index]
        elif record.get("mode") == "val" and before is not None:
            after = afters[index]
            if after <= before:  # a run that was resumed from further back: says nothing of this line
                after = math.inf
            stated = record.get("iter", math.nan)
            if not (_is_iteration(stated) and before <= stated <= after):
                changed[index], record["iter"] = stated, before
    if changed:
        for index, record in enumerate(records):
            if record.get("mode") == "val":
                record["iter_in_file"] = changed.get(index, record.get("iter", math.nan))


def _columns(records: Sequence[dict[str, Any]]) -> Columns:
    keys = dict.fromkeys(key for record in records for key in record if key != "mode")
    return {key: [math.nan if record.get(key) is None else record[key] for record in records] for key in keys}


def _points(columns: Columns, key: str) -> list[tuple[float, float]]:
    """Return (iteration, value) pairs of a column, without those that cannot be plotted."""
    pairs = zip(columns.get("iter", []), columns.get(key, []), strict=False)
    return [(x, y) for x, y in pairs if _is_iteration(x) and _is_number(y)]


def _axes(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST  # type: ignore[operator]  # nan is not


def _is_iteration(value: object) -> bool:
    return _is_number(value) and 0 <= value <= MOST_ITERATIONS  # type: ignore[operator]


def _no_log(url: str, found: str) -> UnexpectedContentError:
    return UnexpectedContentError(
        asked=f"the training log {url}",
        found=f"what came is no training log: {found}",
        done="nothing was kept",
        advice="try another host with HRNET_ZOO_MIRRORS",
        url=url,
    )
