"""A download, or an export of a labeling tool, -> the folder that `hrnet_zoo.datasets.layouts` reads."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hrnet_zoo.datasets import DATASETS
from hrnet_zoo.datasets.aerial import DOWNLOADS, prepare_aerial
from hrnet_zoo.datasets.color_masks import read_binary_masks, read_color_masks
from hrnet_zoo.datasets.exports import Export, ImageFiles, write_export
from hrnet_zoo.datasets.files import OutputFolder, open_files
from hrnet_zoo.datasets.labeling_tools import read_coco, read_cvat, read_label_studio, read_labelme
from hrnet_zoo.datasets.pairing import relative_name
from hrnet_zoo.errors import ConfigError, DatasetError

# What fills a folder from a download, with a progress bar or without.
PREPARATIONS: dict[str, Callable[[Path, OutputFolder, bool], None]] = {
    key: partial(prepare_aerial, download) for key, download in DOWNLOADS.items()
}
# What reads an export of a labeling tool.
TOOLS: dict[str, Callable[[ImageFiles], Export]] = {
    "coco": read_coco,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "label-studio": read_label_studio,
    "color-masks": read_color_masks,
    "binary-masks": read_binary_masks,
}


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made.

    Attributes:
        root: the folder that was filled.
        images: number of its images, or tiles, by split; "" for a folder without splits.
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
    dataset: str,
    source: str | Path,
    destination: str | Path,
    *,
    classes: Sequence[str] | None = None,
    empty: str | None = None,
    force: bool = False,
    progress: bool = True,
) -> Prepared:
    """Make a folder that `check_data`, `evaluate` and `finetune` read of a download or an export that they do not.

    LoveDA is copied; Potsdam, Vaihingen and iSAID are cut into tiles (see `hrnet_zoo.datasets.aerial`). Of an export of
    a labeling tool (see `hrnet_zoo.datasets.labeling_tools` and `color_masks`) the images are copied, and masks and
    `classes.txt` are made: in `train/` and `val/` (or `test/`) if it has such parts. A pixel is in a shape if its
    center is. Labels called ignore or void become 255. The notes count overlaps, empty pixels and what was left out.

    Each file is written whole or not at all, and one that is there already is kept: an interrupted run goes on where it
    stopped. If the labels of an export have changed meanwhile, that is an error, unless `force` is set.

    Args:
        dataset: "loveda", "potsdam", "vaihingen" or "isaid"; or the form of an export: "coco", "labelme", "cvat" (for
            images 1.1), "label-studio" (JSON), "color-masks" or "binary-masks".
        source: the folder of the downloaded zip files, or of what is in them; the folder or zip file of an export.
        destination: the folder to fill.
        classes: names in the order of the mask values, for an export; None: as the export lists them, or else in
            alphabetical order. Of binary masks, the name of the foreground, or of black and of white.
        empty: what pixels without a label become, for an export: "background", a class that comes first unless the
            export has it, or "ignore" (255). None: "background".
        force: replace files that are there already.
        progress: show a bar on a terminal, else a line once a minute.

    Raises:
        ConfigError: no such dataset, or one that needs no preparation; an argument that it does not take.
        DatasetError: a part of the download is missing, damaged or another than expected.
        ImageError: an image cannot be read.
        OutputError: a file cannot be written.

    """
    if dataset not in (*PREPARATIONS, *TOOLS):
        raise _unknown(dataset)
    # Unlike Path.resolve, it keeps a link's own name, which may say what is in it.
    source = Path(os.path.abspath(source))  # noqa: PTH100
    out = OutputFolder(Path(destination), force=force)
    _check_arguments(dataset, classes, empty, source, out.root)
    if not os.path.exists(source):  # noqa: PTH110 - never raises
        advice = "name the folder of the downloaded zip files, or of what is in them"
        raise DatasetError(asked=f"prepare {source}", found="no such folder", advice=advice, path=source)
    if dataset in PREPARATIONS:
        PREPARATIONS[dataset](source, out, progress)
    else:
        if dataset == "binary-masks" and classes and len(classes) == 1:
            classes = ["background", *classes]
        with open_files(source) as files:
            ours = f"{relative_name(out.root, source.parent)}/"  # what an earlier run made is no part of the export
            files = {key: read for key, read in files.items() if not key.startswith(ours)}
            export = TOOLS[dataset](ImageFiles(files, source))
            write_export(export, out, classes=classes, empty=empty or "background", progress=progress)
    return Prepared(out.root, dict(sorted(out.images.items())), out.written, tuple(out.notes))


def _check_arguments(
    dataset: str, classes: Sequence[str] | None, empty: str | None, source: Path, destination: Path
) -> None:
    if dataset in PREPARATIONS and (classes or empty):
        found, advice = "its classes and labels are fixed", "leave classes and empty out"
    elif empty not in (None, "background", "ignore"):
        found, advice = f"empty={empty!r}", "empty is 'background' or 'ignore'"
    elif isinstance(classes, str | int) or not all(isinstance(name, str) and name.strip() for name in classes or ()):
        found, advice = f"classes={classes!r:.100}", "name the classes"
    elif len(set(classes or ())) < len(classes or ()):
        found, advice = "a class that is named twice", "name each class once"
    elif dataset in TOOLS and os.path.realpath(destination) == os.path.realpath(source):
        found, advice = f"{destination} is the folder of the export", "name another one to fill"
    else:
        return
    raise ConfigError(asked=f"prepare {dataset}", found=found, done="nothing was read or written", advice=advice)


def _unknown(name: str) -> ConfigError:
    known = (*PREPARATIONS, *TOOLS)
    found, advice = "no dataset or export that is prepared", f"name one of {', '.join(known)}"
    if name in DATASETS:
        found = f"{DATASETS[name].title} needs no preparation"
        advice = f"unpack it, and try `hrnet-zoo check-data FOLDER --dataset {name}`"
    elif near := difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.5):
        advice = f"the nearest names are {', '.join(near)}"
    asked = f"prepare the dataset {name[:100]!r}"
    return ConfigError(asked=asked, found=found, done="nothing was read or written", advice=advice)
