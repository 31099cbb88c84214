"""What the right weights give on one generated image: tells whether these weights, on this machine, are right.

`fingerprints.json` holds what was recorded, in float32 on a CPU, by row; `record` makes such entries anew.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from hrnet_zoo import __version__
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.images.atomic import atomic_write
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.images.read import RGB, normalize, resize
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.weights import cache
from hrnet_zoo.zoo.catalog import list_models, model_info
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.zoo.published import cached_stem

TOLERANCE = 1e-4  # of the largest score; float32 on two CPUs differs by some 1e-6
PLACES = 25 * 33  # of the scores, at a quarter of the probe's size
SHARE_TOLERANCE = 0.005  # 4 of the places: an undecided one may fall either way
SAMPLES = 16
RECORDED = Path(__file__).with_name("fingerprints.json")


@dataclass(frozen=True)
class Fingerprint:
    """What one row's network makes of the probe.

    Attributes:
        data_sha256: of the converted weights, from the header of their file.
        source_sha256: of the published file.
        recorded_with: versions of hrnet_zoo and torch, and the machine's architecture.
        statistics: by class "mean", "standard_deviation", "minimum" and "maximum" of the scores at a quarter of its
            size, and the "share" of the places at which it has the highest score; and some "samples" of the scores.

    """

    data_sha256: str
    source_sha256: str
    recorded_with: Mapping[str, str]
    statistics: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Deviation:
    """The statistic that differs most from the recorded one, against its tolerance.

    Attributes:
        statistic: such as "mean of 'wall'".
        found: its value here.
        recorded: its value in the record.
        relative: their distance; of scores relative to the largest score.
        tolerance: the largest distance that is fine.

    """

    statistic: str
    found: float
    recorded: float
    relative: float
    tolerance: float

    @property
    def fine(self) -> bool:
        """Whether it is within the tolerance."""
        return self.relative <= self.tolerance


def probe() -> RGB:
    """Make the image: (97, 131, 3) uint8 RGB, bit for bit the same everywhere.

    A grid of 7 x 9 colors from the recurrence x -> 1664525 x + 1013904223 modulo 2^32 (Knuth and Lewis), from 0, its
    highest byte; row by row, R, G, B; enlarged in the whole-number arithmetic of `hrnet_zoo.images.read.resize`. The
    sides are odd, so that every resize inside the network is at work.
    """
    value, levels = 0, []
    for _ in range(7 * 9 * 3):
        value = (1664525 * value + 1013904223) % 2**32
        levels.append(value >> 24)
    return resize(np.array(levels, np.uint8).reshape(7, 9, 3), 97, 131)


def reference(name: str, *, progress: bool) -> FCNHRNet:
    """Create a row's network as fingerprints are taken of it: in float32 on the CPU."""
    return create_model(name, device="cpu", dtype=torch.float32, progress=progress)


def fingerprint(model: FCNHRNet) -> Fingerprint:
    """Take the fingerprint of a network that `reference` made."""
    with torch.inference_mode():
        scores = model.decode_head(model.backbone(normalize(probe())))[0].double().flatten(1)
    best = scores.argmax(dim=0).bincount(minlength=len(scores))
    samples = scores.flatten()[:: len(scores) * PLACES // SAMPLES][:SAMPLES]
    statistics = {
        "mean": scores.mean(dim=1),
        "standard_deviation": scores.std(dim=1, correction=0),
        "minimum": scores.amin(dim=1),
        "maximum": scores.amax(dim=1),
        "share": best / best.sum(),
        "samples": samples,
    }
    return Fingerprint(
        data_sha256=model.provenance["data_sha256"],
        source_sha256=model.provenance["source_sha256"],
        recorded_with={"hrnet_zoo": __version__, "torch": torch.__version__, "machine": platform.machine()},
        statistics={name: [float(f"{value:.7g}") for value in values.tolist()] for name, values in statistics.items()},
    )


def recorded(name: str, path: Path = RECORDED) -> Fingerprint | None:
    """Look up the recorded fingerprint of a row; None if there is none yet."""
    return _read(path).get(name)


def compare(found: Fingerprint, known: Fingerprint, classes: Sequence[str]) -> Deviation:
    """Find the statistic that differs most from the recorded one, measured by its tolerance."""
    largest = max(map(abs, (*known.statistics["minimum"], *known.statistics["maximum"])))

    def deviations() -> Iterator[Deviation]:
        for kind, values in known.statistics.items():
            unit, tolerance = (1.0, SHARE_TOLERANCE) if kind == "share" else (largest, TOLERANCE)
            for index, (here, there) in enumerate(zip(found.statistics[kind], values, strict=True)):
                what, owner = kind.replace("_", " "), index
                if kind == "samples":
                    what, owner = f"sample {index}", index * (len(classes) * PLACES // SAMPLES) // PLACES
                distance = abs(here - there) / unit
                # NaN is near to nothing, and would hide in a comparison
                yield Deviation(
                    f"{what} of {classes[owner]!r}",
                    here,
                    there,
                    distance if math.isfinite(distance) else math.inf,
                    tolerance,
                )

    return max(deviations(), key=lambda each: each.relative / each.tolerance)


def record(name: str | None = None, *, progress: bool = True) -> dict[str, Fingerprint]:
    """Take the fingerprint of one row, fetched if need be, or (None) of all rows in the cache.

    Raises:
        UnknownModelError: no row has this name.
        ConfigError: the cache holds no row.
        DownloadError, CheckpointError, CacheError: as `create_model`.

    """
    rows = [model_info(each) for each in ((*list_models(), "demo") if name is None else (name,))]
    if name is None:
        rows = [row for row in rows if cache.is_cached(cached_stem(row))]
    if not rows:
        raise ConfigError(
            asked="record the fingerprints of the rows in the cache",
            found=f"none is in {cache.root()}",
            done="nothing was recorded",
            advice="fetch some first: hrnet-zoo download --all; or name one",
        )
    bar = Bar(rows, desc="record", unit="model", disable=None if progress else True)
    return {row.name: fingerprint(reference(row.name, progress=progress)) for row in bar}


def to_json(fingerprints: Mapping[str, Fingerprint]) -> str:
    """Write fingerprints as `fingerprints.json` has them: one row of the table a line."""
    lines = (f"{json.dumps(name)}: {json.dumps(asdict(each))}" for name, each in fingerprints.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def save(fingerprints: Mapping[str, Fingerprint], path: Path) -> None:
    """Write fingerprints into a file; what it holds of other rows stays.

    Raises:
        ConfigError: the file that is there holds something else.
        OutputError: it cannot be written.

    """
    kept = _read(path) if os.path.lexists(path) else {}  # never raises, as Path.exists does for a name too long
    order = {name: place for place, name in enumerate((*list_models(), "demo"))}
    merged = sorted({**kept, **fingerprints}.items(), key=lambda item: order.get(item[0], len(order)))
    atomic_write(path, to_json(dict(merged)).encode())


def _read(path: Path) -> dict[str, Fingerprint]:
    try:
        return {name: Fingerprint(**entry) for name, entry in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:  # unreadable, no JSON, other JSON
        raise ConfigError(
            asked=f"read the fingerprints in {path}",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            done="nothing was written",
            advice="name another file",
        ) from error
