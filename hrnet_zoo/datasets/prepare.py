"""A download that is not read as it is -> the folder that `hrnet_zoo.datasets.layouts` reads."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hrnet_zoo.datasets import DATASETS
from hrnet_zoo.datasets.aerial import DOWNLOADS, prepare_aerial
from hrnet_zoo.datasets.files import OutputFolder
from hrnet_zoo.errors import ConfigError, DatasetError

# What fills a folder from a download, with a progress bar or without.
PREPARATIONS: dict[str, Callable[[Path, OutputFolder, bool], None]] = {
    key: partial(prepare_aerial, download) for key, download in DOWNLOADS.items()
}


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made.

    Attributes:
        root: the folder that was filled.
        images: number of its images, or tiles, by split.
        written: number of files that were written; the others were there already.
        notes: what is worth knowing about the files.

    """

    root: Path
    images: dict[str, int]
    written: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {**asdict(self), "root": str(self.root)}


def prepare(
    dataset: str, source: str | Path, destination: str | Path, *, force: bool = False, progress: bool = True
) -> Prepared:
    """Make a folder that `check_data`, `evaluate` and `finetune` read of a download that they do not.

    LoveDA is copied; Potsdam, Vaihingen and iSAID are cut into tiles (see `hrnet_zoo.datasets.aerial`). Each file is
    written whole or not at all, and one that is there already is kept: an interrupted run goes on where it stopped.

    Args:
        dataset: "loveda", "potsdam", "vaihingen" or "isaid".
        source: the folder of the downloaded zip files, or of what is in them.
        destination: the folder to fill.
        force: write files anew that are there already.
        progress: show a progress bar.

    Raises:
        ConfigError: no such dataset, or one that needs no preparation.
        DatasetError: a part of the download is missing, damaged or another than expected.
        ImageError: an image cannot be read.
        OutputError: a file cannot be written.

    """
    if dataset not in PREPARATIONS:
        raise _unknown(dataset)
    # Unlike Path.resolve, it keeps a link's own name, which may say what is in it.
    source = Path(os.path.abspath(source))  # noqa: PTH100
    out = OutputFolder(Path(destination), force=force)
    if not os.path.exists(source):  # noqa: PTH110 - never raises
        advice = "name the folder of the downloaded zip files, or of what is in them"
        raise DatasetError(asked=f"prepare {source}", found="no such folder", advice=advice, path=source)
    PREPARATIONS[dataset](source, out, progress)
    return Prepared(out.root, dict(sorted(out.images.items())), out.written, tuple(out.notes))


def _unknown(name: str) -> ConfigError:
    found, advice = "no dataset that is prepared", f"name one of {', '.join(PREPARATIONS)}"
    if name in DATASETS:
        found = f"{DATASETS[name].title} needs no preparation"
        advice = f"unpack it, and try `hrnet-zoo check-data FOLDER --dataset {name}`"
    elif near := difflib.get_close_matches(name.lower(), PREPARATIONS, n=2, cutoff=0.5):
        advice = f"the nearest names are {', '.join(near)}"
    asked = f"prepare the dataset {name[:100]!r}"
    return ConfigError(asked=asked, found=found, done="nothing was read or written", advice=advice)
