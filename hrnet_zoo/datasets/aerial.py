"""Downloads of aerial datasets -> the images or tiles, and label maps, that the published figures were measured on.

Splits, positions, padding, names and label values are those of mmsegmentation's converters (1.2.2,
tools/dataset_converters/{loveda,potsdam,vaihingen,isaid}.py). They write image tiles of iSAID as BMP files by the name
of PNG; here they are PNG files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from hrnet_zoo.datasets.dataset import BLACK, ISAID, POTSDAM, Color
from hrnet_zoo.datasets.files import Files, OutputFolder, open_files
from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.errors import DatasetError
from hrnet_zoo.images.atomic import png
from hrnet_zoo.images.formats import image_errors, open_image
from hrnet_zoo.images.progress import Bar

Pixels = npt.NDArray[np.uint8]
Key = tuple[str, str]  # split and name of an image


class Box(NamedTuple):
    """A tile's place in its image, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


_IMAGES, _LABELS = "img_dir", "ann_dir"
_ROWS = 256  # of a label image that are converted together
_MOST_UNKNOWN = 0.5  # share of the pixels of a label image that may have none of the label colors


@dataclass(frozen=True)
class Download:
    """How the files of a download become images and label maps.

    Attributes:
        needs: the files to fetch, in words.
        image: pattern of the path of an image, with the group `name`, and `split` unless `splits` are given.
        labels: the same for label images; a test split has none.
        splits: names of images by split.
        tile: side and stride of the tiles in pixels; None: files are copied as they are.
        tile_name: name of a tile, without its ending.
        labels_ending: what the names of label tiles have beside it.
        padded: whether an image that is smaller than a tile is padded, with 0, and its labels with 255.
        colors: color (RGB) of each label value.
        weights: of red, green and blue. As in the reference's converter, a color is known by its weighted sum alone:
            another color of the same sum has the same value, and one of any other sum has value 0.

    """

    needs: str
    image: str
    labels: str
    splits: Mapping[str, str] = field(default_factory=dict)
    tile: tuple[int, int] | None = None
    tile_name: str = "{name}_{left}_{top}_{right}_{bottom}"
    labels_ending: str = ""
    padded: bool = False
    colors: tuple[Color, ...] = ()
    weights: tuple[int, int, int] = (1 << 16, 1 << 8, 1)

    def split_of(self, match: re.Match[str]) -> str:
        """Return the split of a matching path; "" if no split has its name."""
        if not self.splits:
            return match["split"].lower()
        return next((split for split, names in self.splits.items() if match["name"] in names.split()), "")


_ISPRS_COLORS = (BLACK, *POTSDAM.palette)
# As in the reference, where (0, 170, 0) is blue for this reason: other colors than the seven may become a class.
_ISPRS_WEIGHTS = (4, 3, 2)

DOWNLOADS = {
    "loveda": Download(
        needs="Train.zip, Val.zip or Test.zip, with images_png/ and masks_png/ for Rural and Urban in them",
        image=r"(?P<split>Train|Val|Test)/(?:Rural|Urban)/images_png/(?P<name>\d+)\.png",
        labels=r"(?P<split>Train|Val)/(?:Rural|Urban)/masks_png/(?P<name>\d+)\.png",
    ),
    "potsdam": Download(
        needs="2_Ortho_RGB.zip (top_potsdam_2_10_RGB.tif, ...) and 5_Labels_all_noBoundary.zip "
        "(top_potsdam_2_10_label_noBoundary.tif, ...)",
        image=r"top_potsdam_(?P<name>\d+_\d+)_RGB\.tif",
        labels=r"top_potsdam_(?P<name>\d+_\d+)_label_noBoundary\.tif",
        splits={
            "train": "2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 6_10 6_11 6_12 6_7 6_8 6_9 7_10 7_11 "
            "7_12 7_7 7_8 7_9",
            "val": "2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13",
        },
        tile=(512, 512),
        colors=_ISPRS_COLORS,
        weights=_ISPRS_WEIGHTS,
    ),
    "vaihingen": Download(
        needs="ISPRS_semantic_labeling_Vaihingen.zip (top/top_mosaic_09cm_area1.tif, ...) and "
        "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip (top_mosaic_09cm_area1_noBoundary.tif, "
        "...)",
        image=r"top/top_mosaic_09cm_(?P<name>area\d+)\.tif",
        labels=r"top_mosaic_09cm_(?P<name>area(?!9_)\d+)_noBoundary\.tif",  # there is no image of area 9
        splits={
            "train": "area1 area3 area5 area7 area11 area13 area15 area17 area21 area23 area26 area28 area30 area32 "
            "area34 area37",
            "val": "area2 area4 area6 area8 area10 area12 area14 area16 area20 area22 area24 area27 area29 area31 "
            "area33 area35 area38",
        },
        tile=(512, 512),
        colors=_ISPRS_COLORS,
        weights=_ISPRS_WEIGHTS,
    ),
    "isaid": Download(
        needs="train/, val/ or test/, with images/part1.zip, ... and (but for test/) Semantic_masks/images.zip in them",
        image=r"(?P<split>train|val|test)/images/(?:.*/)?(?P<name>P\d+)\.png",
        labels=r"(?P<split>train|val)/Semantic_masks/(?:.*/)?(?P<name>P\d+)_instance_color_RGB\.png",
        tile=(896, 512),
        tile_name="{name}_{top}_{bottom}_{left}_{right}",
        labels_ending="_instance_color_RGB",
        padded=True,
        colors=ISAID.palette,
    ),
}


def prepare_aerial(download: Download, source: Path, out: OutputFolder, progress: bool) -> None:
    """Fill img_dir/SPLIT and ann_dir/SPLIT from a download, one image at a time.

    Raises:
        DatasetError: a file is missing, there twice, or not what its name says.
        ImageError: an image cannot be read.
        OutputError: a file cannot be written.

    """
    with open_files(source) as files:
        images, labels = (_find(download, pattern, files, source) for pattern in (download.image, download.labels))
        _require_pairs(download, images, labels, files, source)
        values = np.zeros(255 * sum(download.weights) + 1, np.uint8)
        for value, color in enumerate(download.colors):
            values[np.dot(color, download.weights)] = value
        for key in Bar(sorted(images), desc="prepare", unit="image", disable=None if progress else True):
            paths = [images[key]] if key[0] == "test" else [images[key], labels[key]]
            if download.tile and len(paths) == 2:
                _cut(download, key, {path: files[path] for path in paths}, values, out)
            else:
                names = [f"{folder}/{key[0]}/{key[1]}.png" for folder in (_IMAGES, _LABELS)]
                out.write((name, files[path]) for name, path in zip(names, paths, strict=False))
                out.images[key[0]] += 1


def _find(download: Download, pattern: str, files: Files, source: Path) -> dict[Key, str]:
    """Return the path of each file that a pattern describes; one that is unpacked comes before one in a zip file."""
    found: dict[Key, str] = {}
    for path in sorted(files, key=lambda path: (".zip/" in path.lower(), path)):
        if not (match := re.search(f"(?:^|/){pattern}$", path, re.IGNORECASE)):
            continue
        if not (split := download.split_of(match)):
            advice = "move it elsewhere, or correct its name"
            raise _refusal(source, f"{path}, which is in neither the training nor the validation split", advice)
        earlier = found.setdefault((split, match["name"]), path)
        if earlier != path and (".zip/" in path.lower()) == (".zip/" in earlier.lower()):
            raise _refusal(source, f"two files for one image: {earlier} and {path}", "move one of them elsewhere")
    return found


def _require_pairs(
    download: Download, images: Mapping[Key, str], labels: Mapping[Key, str], files: Files, source: Path
) -> None:
    needed = {key for key in images if key[0] != "test"}
    if not images or (needed and not labels):
        missing = "labels" if images else "images"
        listed = ", ".join(list(files)[:5]) + ", ..." * (len(files) > 5)
        found = f"no {missing} of this dataset among {len(files)} files" + f": {listed}" * bool(files)
        raise _refusal(source, found, f"fetch {download.needs}; zip files inside a zip file must be unpacked")
    for missing, alone in (("labels", needed - labels.keys()), ("image", labels.keys() - needed)):
        if alone:
            names = [f"{name} ({split})" for split, name in sorted(alone)]
            listed = ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5)
            raise _refusal(source, f"no {missing} for {listed}", f"fetch all of {download.needs}")


def _cut(download: Download, key: Key, files: Files, values: Pixels, out: OutputFolder) -> None:
    """Cut an image and its labels, in this order, into tiles; the pixels of one are in memory at a time."""
    sizes = {}
    for path, read in files.items():
        with image_errors(path), open_image(read(), whole=False) as header:
            sizes[path] = header.size
    if len({*sizes.values()}) > 1:
        found = ", ".join("{} has {} x {} pixels".format(path, *size) for path, size in sizes.items())
        raise _refusal(Path(next(iter(sizes))), found, "download both again")
    for (path, read), folder in zip(files.items(), (_IMAGES, _LABELS), strict=True):
        tiles = {
            f"{folder}/{key[0]}/{download.tile_name.format(name=key[1], **box._asdict())}"
            + (download.labels_ending if folder == _LABELS else "")
            + ".png": box
            for box in _boxes(download, *sizes[path], path)
        }
        if any(map(out.is_wanted, tiles)):
            pixels = _read_rgb(path, read)
            if folder == _LABELS:
                pixels = _label_values(download, pixels, values, path, out)
            pixels = _padded(download, pixels, IGNORE_INDEX if folder == _LABELS else 0)
            out.write((name, partial(_tile, pixels, box)) for name, box in tiles.items())
    out.images[key[0]] += len(tiles)


def _boxes(download: Download, width: int, height: int, path: str) -> list[Box]:
    """Return the tiles; the last one of a row or column is moved back inside, over its neighbor."""
    side, stride = download.tile or (0, 0)
    if download.padded and side not in (width, height):
        width, height = max(width, side), max(height, side)
    elif not download.padded and min(width, height) < side:
        raise _refusal(
            Path(path), f"{width} x {height} pixels, less than a tile of {side} x {side}", "download it again"
        )
    # A side below the tile's occurs where `_padded` leaves it so: the start is negative, as in the reference.
    lefts, tops = (sorted({min(at, length - side) for at in range(0, length, stride)}) for length in (width, height))
    return [Box(left, top, left + side, top + side) for top in tops for left in lefts]


def _padded(download: Download, pixels: Pixels, value: int) -> Pixels:
    """Pad to the size of a tile, right and below.

    The reference does not where one side is as long as a tile: a shorter other side is then cut from a negative start,
    and some of its rows or columns are lost. The published figures were made so.
    """
    side, (height, width) = download.tile and download.tile[0], pixels.shape[:2]
    if not download.padded or side is None or side in (width, height):
        return pixels
    more = [(0, max(side - height, 0)), (0, max(side - width, 0)), (0, 0)]
    return np.pad(pixels, more[: pixels.ndim], constant_values=value)


def _read_rgb(path: str, read: Callable[[], bytes]) -> Pixels:
    """Return RGB as stored: without any transparency, which the reference passes over too."""
    with image_errors(path), open_image(read()) as header:
        image = header.decode()
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _label_values(download: Download, rgb: Pixels, values: Pixels, path: str, out: OutputFolder) -> Pixels:
    colors, labels, unknown = np.array(download.colors, np.uint8), np.empty(rgb.shape[:2], np.uint8), 0
    for top in range(0, len(rgb), _ROWS):
        part = rgb[top : top + _ROWS]
        chunk = values[part @ np.array(download.weights, np.uint32)]
        labels[top : top + _ROWS] = chunk
        unknown += int(np.count_nonzero((colors[chunk] != part).any(axis=2)))
    if unknown > _MOST_UNKNOWN * labels.size:
        found = f"{unknown / labels.size:.0%} of its pixels have none of the label colors of this dataset"
        raise _refusal(Path(path), found, f"fetch {download.needs}")
    if unknown:
        share = unknown / labels.size
        out.notes.append(
            f"{path}: {unknown:,} pixels ({share:.2%}) have no label color; they are labeled as the reference does"
        )
    return labels


def _tile(pixels: Pixels, box: Box) -> bytes:
    return png(Image.fromarray(np.ascontiguousarray(pixels[box.top : box.bottom, box.left : box.right])))


def _refusal(path: Path, found: str, advice: str) -> DatasetError:
    done = "nothing was written, or what was written is whole"
    return DatasetError(asked=f"prepare {path}", found=found, done=done, advice=advice, path=path)
