"""Downloads of aerial datasets in small: zip files of random images, and of labels that are blocks of colors."""

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hrnet_zoo.datasets import ISAID, POTSDAM
from hrnet_zoo.datasets.dataset import BLACK, Color

Size = tuple[int, int]  # width, height


def picture(size: Size, mode: str = "RGB") -> Image.Image:
    """Make an image of small blocks of random colors, and with alpha a smooth one."""
    random = np.random.default_rng(size[0] * 10_000 + size[1])
    blocks = random.integers(0, 256, (-(-size[1] // 5), -(-size[0] // 7), 3), np.uint8)
    image = Image.fromarray(blocks.repeat(5, axis=0).repeat(7, axis=1)[: size[1], : size[0]])
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(size))
    return image.convert(mode)


def colors(size: Size, palette: Sequence[Color], odd: float = 0.02) -> Image.Image:
    """Make blocks of label colors, with a share of odd colors strewn in."""
    random = np.random.default_rng(size[0] * 10_000 + size[1])
    width, height = size
    blocks = random.integers(0, len(palette), (-(-height // 37), -(-width // 41)))
    rgb = np.array(palette, np.uint8)[blocks.repeat(37, axis=0).repeat(41, axis=1)[:height, :width]]
    strewn = random.random((height, width)) < odd
    rgb[strewn] = random.integers(0, 256, (np.count_nonzero(strewn), 3))
    return Image.fromarray(rgb)


def encoded(image: Image.Image, **options: str) -> bytes:
    """Return the file of an image: PNG unless a format is given."""
    stream = io.BytesIO()
    image.save(stream, **{"format": "PNG", **options})
    return stream.getvalue()


def zipped(path: Path, members: Mapping[str, bytes]) -> None:
    """Write a zip file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def loveda(home: Path) -> Path:
    """Write the three zip files; names are unique over both places."""
    number = 0
    for split in ("Train", "Val", "Test"):
        members = {}
        for place in ("Rural", "Urban"):
            values = (np.arange(64 * 64) // 97 % 8).astype(np.uint8).reshape(64, 64)
            members[f"{split}/{place}/images_png/{number}.png"] = encoded(picture((64, 64)))
            if split != "Test":
                members[f"{split}/{place}/masks_png/{number}.png"] = encoded(Image.fromarray(values))
            number += 1
        zipped(home / f"{split}.zip", members)
    return home


def potsdam(home: Path, sizes: Mapping[str, Size]) -> Path:
    """Write the two zip files: TIFFs of these sizes by name, such as "2_13"."""
    palette = (BLACK, *POTSDAM.palette)
    zipped(
        home / "2_Ortho_RGB.zip",
        {
            f"2_Ortho_RGB/top_potsdam_{name}_RGB.{ending}": content
            for name, size in sizes.items()
            for ending, content in {"tif": encoded(picture(size), format="TIFF"), "tfw": b"0.05\n"}.items()
        },
    )
    zipped(
        home / "5_Labels_all_noBoundary.zip",
        {
            f"top_potsdam_{name}_label_noBoundary.tif": encoded(colors(size, palette), format="TIFF")
            for name, size in sizes.items()
        },
    )
    return home


def vaihingen(home: Path, sizes: Mapping[str, Size]) -> Path:
    """Write the two zip files, with labels of the whole and of area 9 as distraction, by name, such as "area6"."""
    palette, name = (BLACK, *POTSDAM.palette), "top_mosaic_09cm_{}"

    def tiff(image: Image.Image) -> bytes:
        return encoded(image, format="TIFF", compression="tiff_lzw")

    images = {f"top/{name.format(area)}.tif": tiff(picture(size)) for area, size in sizes.items()}
    whole = {f"gts_for_participants/{name.format(area)}.tif": b"of no use" for area in sizes}
    zipped(home / "ISPRS_semantic_labeling_Vaihingen.zip", images | whole)
    zipped(
        home / "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip",
        {
            f"{name.format(area)}_noBoundary.tif": tiff(colors(size, palette))
            for area, size in {**sizes, "area9": (520, 520)}.items()
        },
    )
    return home


def isaid(home: Path, images: Mapping[str, tuple[Size, str]]) -> Path:
    """Write the zip files: images of a size and mode by name, such as "val/P0003"."""

    def write(place: str, kind: str, make: Callable[[Size, str], Image.Image], ending: str) -> None:
        for split in ("train", "val", "test"):
            found = {name.split("/")[1]: each for name, each in images.items() if name.startswith(split)}
            if split == "test" and kind != "images":
                continue
            members = {f"images/{name}{ending}.png": encoded(make(*each)) for name, each in found.items()}
            zipped(home / split / kind / place, members)

    write("part1.zip", "images", picture, "")
    write("images.zip", "Semantic_masks", lambda size, _: colors(size, ISAID.palette), "_instance_color_RGB")
    return home
