"""The datasets of the published checkpoints: class names, colors, and how images are resized and cropped.

Names and colors in a checkpoint's metadata are not used: those in the two published Pascal Context files are very
probably in another order than the labels they were trained on.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from hrnet_zoo.errors import ConfigError

Color = tuple[int, int, int]

RGB_BANDS = ("red", "green", "blue")

BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)
# The seven colors of Okabe and Ito. Each further one is the color of a grid that is farthest in OKLab from black and
# all before it, for normal vision and (weighted 1.6) deuteranopia and protanopia (Machado et al., 2009).
_DISTINCT_COLORS: tuple[Color, ...] = tuple(
    (number >> 16, number >> 8 & 255, number & 255)
    for number in (
        *(0xE69F00, 0x56B4E9, 0x009E73, 0xCC79A7, 0xF0E442, 0x0072B2, 0xD55E00, 0x780F4B, 0xFFD2F0, 0x0000FF, 0x3C2D96),
        *(0x9669FF, 0x694B00, 0x00E196, 0x875A78, 0xD200B4, 0xC31E4B, 0xFF4B69, 0x96FFB4, 0x2D694B, 0x5A5AE1, 0xB4C3E1),
        *(0x5A00D2, 0x96B496, 0x9687D2, 0x004B69, 0xB4D25A, 0xB4E1C3, 0x00961E, 0xFF87FF, 0x5A4B87, 0xC378FF, 0x78C369),
        *(0x69FF78, 0xA5A5C3, 0x965A00, 0x7800B4, 0x781E1E, 0x5A78D2, 0x5A8787, 0x960069, 0x2D4BFF, 0xB4784B, 0x5AD2B4),
        *(0x4BC31E, 0xA51E2D, 0x5A6996, 0xFFB4FF, 0xF000A5, 0xFFB496, 0x4B96F0, 0xFF9669, 0x5AF0E1, 0xFF4B96, 0xF0B4C3),
        *(0x693CD2, 0xB4963C, 0xD269C3, 0xD296E1, 0xE1F096, 0x783CA5, 0x96E100, 0xE10F5A, 0xA55A69),
    )
)


@dataclass(frozen=True)
class Dataset:
    """The training data of a network: its classes, and the sizes at which the network sees images.

    Attributes:
        key: short name, as in model names.
        title: name as in the published table.
        crop: training crop (height, width) in pixels.
        batch_per_gpu: training batch of each of the four GPUs.
        resize_to: (long side, short side) in pixels that an image is fitted into, keeping its aspect ratio.
        sliding_window: whether inference slides a window over the image, or takes it whole.
        data_license: terms of use of the dataset.
        labels: class names and RGB colors by index; empty: those in `<key>.csv` beside this file.
        val_images: number of images that the published figures were measured on; 0: no figures are published.
        meters_per_pixel: ground resolution of aerial images; None: photographs, or images of many resolutions.
        bands: what the channels of an image show, in their order.
        mean: of each band, in the values of the images, which are then TIFF or .npy files (`hrnet_zoo.images.bands`),
            and are not read as 8-bit RGB; empty: they are, and ImageNet's mean and deviation are those of the network.
        std: the standard deviation of each band, likewise.
        figures_note: what the published figures count, where that is not plain.

    """

    key: str
    title: str
    crop: tuple[int, int]
    batch_per_gpu: int
    resize_to: tuple[int, int]
    sliding_window: bool
    data_license: str
    labels: tuple[tuple[str, Color], ...] = ()
    val_images: int = 0
    meters_per_pixel: float | None = None
    bands: tuple[str, ...] = RGB_BANDS
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    figures_note: str = ""

    @cached_property
    def _labels(self) -> tuple[tuple[str, Color], ...]:
        if self.labels:
            return self.labels
        with (Path(__file__).parent / f"{self.key}.csv").open(encoding="utf-8", newline="") as file:
            return tuple(
                (row["name"], (int(row["red"]), int(row["green"]), int(row["blue"]))) for row in csv.DictReader(file)
            )

    @property
    def window(self) -> tuple[int, int]:
        """Size and stride of the sliding window in pixels: the crop's short side, and two thirds of it."""
        side = min(self.crop)
        return side, side * 2 // 3

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index."""
        return tuple(name for name, _ in self._labels)

    @property
    def palette(self) -> tuple[Color, ...]:
        """Colors (RGB, 0 to 255) by index."""
        return tuple(color for _, color in self._labels)

    @property
    def own_bands(self) -> tuple[str, ...]:
        """The bands of images that are not read as 8-bit RGB; empty if they are."""
        return self.bands if self.mean else ()

    def with_bands(
        self,
        bands: Sequence[str] | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        measured: Callable[[tuple[str, ...]], str] = lambda bands: "",
    ) -> Dataset:
        """Return this dataset with images of other bands; None: the same bands.

        Raises:
            ConfigError: no different names, or not a number of `mean` and `std` for each. They are needed for all but
                8-bit RGB and what the dataset has already; where both lack, `measured` of the bands ends the message.

        """
        names = self.bands if bands is None else band_names(bands)
        if mean is None and std is None:
            if names == self.bands:
                return self
            if names == RGB_BANDS:
                return replace(self, bands=names, mean=(), std=())
        try:
            means, stds = (tuple(map(float, () if each is None else each)) for each in (mean, std))
            if len(means) == len(stds) == len(names) and min(stds) > 0 and all(-1e12 < n < 1e12 for n in means + stds):
                return replace(self, bands=names, mean=means, std=stds)
        except (TypeError, ValueError):
            pass
        found = f"mean and std of each of the {len(names)} bands are needed, in the values of the images, std above 0"
        found += measured(names) if mean is None and std is None else ""
        stated = "" if mean is None and std is None else f" with mean={mean} and std={std}"
        raise _bands_error(f"{', '.join(names)}{stated}", found)

    def require_rgb(self, asked: str) -> None:
        """Raise ConfigError if images are not read as 8-bit RGB."""
        if self.own_bands:
            raise ConfigError(
                asked=asked,
                found=f"the network takes images of the bands {', '.join(self.bands)}, and not 8-bit RGB",
                done="nothing was computed",
                advice="predict, evaluate, finetune and optimize are for such networks too",
            )

    def with_classes(self, names: Sequence[str], colors: Mapping[str, Color] | None = None) -> Dataset:
        """Return this dataset with other classes, and no published figures.

        `colors` take precedence; "background" at index 0 is black, which overlays leave out; a known name keeps its
        color; the others get colors that are easy to tell apart, also for color-blind readers.
        """
        stated, known = dict(colors or {}), dict(self._labels)
        if not stated and tuple(names) == self.classes:
            return replace(self, labels=self._labels, val_images=0)
        if names and is_background(names[0]):
            stated.setdefault(names[0], BLACK)
        for name in names:
            if name in known and name not in stated and known[name] not in stated.values():
                stated[name] = known[name]
        taken = set(stated.values())
        # Colors that resemble a taken one come last; only a great many classes need them.
        unused = [color for color in distinct_colors() if color not in taken]
        free = iter(sorted(unused, key=lambda color: any(_resembles(color, each) for each in taken)))
        return replace(self, labels=tuple((name, stated.get(name) or next(free)) for name in names), val_images=0)


def band_names(bands: object) -> tuple[str, ...]:
    """Return names of bands, or raise ConfigError unless they are different names."""
    names = tuple(map(str, bands)) if isinstance(bands, Iterable) and not isinstance(bands, str) else ()
    if not names or len({name.strip().casefold() for name in names} - {""}) < len(names):
        raise _bands_error(repr(bands), "bands are different names, such as red, green, blue, nir")
    return names


def _bands_error(bands: str, found: str) -> ConfigError:
    return ConfigError(
        asked=f"images of the bands {bands}",
        found=found,
        done="nothing was computed",
        advice="name each band, its mean and its standard deviation, in the order that the images have",
    )


def distinct_colors() -> tuple[Color, ...]:
    """Return thousands of colors; the first 65 are the easiest to tell apart, also for color-blind readers."""
    return tuple(dict.fromkeys((*_DISTINCT_COLORS, *map(voc_color, range(1, 4097)))))


def is_background(name: str) -> bool:
    """Return whether a class is called "background", in any of the usual spellings."""
    return name.strip(" _").casefold() == "background"


def _resembles(one: Color, other: Color) -> bool:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) < 60


def voc_color(index: int) -> Color:
    """Return a color of the Pascal VOC color map: the index's bits go to red, green and blue in turn."""
    red, green, blue = (sum((index >> 3 * bit + channel & 1) << 7 - bit for bit in range(8)) for channel in range(3))
    return red, green, blue


# Sizes and batches: configs/_base_/datasets and configs/hrnet of mmsegmentation 0.x. Numbers of images: the official
# validation lists; for Pascal Context the one that mmsegmentation's converter writes, 5104 of the official 5105 (its
# issue 394); for aerial images the tiles of its converters.
CITYSCAPES = Dataset(
    key="cityscapes",
    title="Cityscapes",
    crop=(512, 1024),
    batch_per_gpu=2,
    resize_to=(2048, 1024),
    sliding_window=False,
    data_license="Cityscapes: non-commercial use only, see https://www.cityscapes-dataset.com/license/",
    val_images=500,
)
ADE20K = Dataset(
    key="ade20k",
    title="ADE20K",
    crop=(512, 512),
    batch_per_gpu=4,
    resize_to=(2048, 512),
    sliding_window=False,
    data_license="ADE20K: non-commercial research and education only, see https://ade20k.csail.mit.edu/terms/",
    val_images=2000,
)
VOC12AUG = Dataset(
    key="voc12aug",
    title="Pascal VOC 2012 + Aug",
    crop=(512, 512),
    batch_per_gpu=4,
    resize_to=(2048, 512),
    sliding_window=False,
    data_license="Pascal VOC 2012: images from Flickr under Flickr's terms, see http://host.robots.ox.ac.uk/pascal/VOC/",
    val_images=1449,
)
PASCAL_CONTEXT = Dataset(
    key="pascal_context",
    title="Pascal Context",
    crop=(480, 480),
    batch_per_gpu=4,
    resize_to=(520, 520),
    sliding_window=True,
    data_license="Pascal Context: images of Pascal VOC 2010 from Flickr under Flickr's terms, "
    "see https://cs.stanford.edu/~roozbeh/pascal-context/",
    val_images=5104,
)
PASCAL_CONTEXT_59 = replace(PASCAL_CONTEXT, key="pascal_context_59", title="Pascal Context 59")
_ISPRS_NOTE = (
    "measured on {} tiles of 512 x 512 pixels with eroded labels (noBoundary), the last of a row or column moved back "
    "over its neighbor and so scored twice; clutter counts as one of the six classes, which many papers leave out"
)
LOVEDA = Dataset(
    key="loveda",
    title="LoveDA",
    crop=(512, 512),
    batch_per_gpu=4,
    resize_to=(1024, 1024),
    sliding_window=False,
    data_license="LoveDA: CC BY-NC-SA 4.0, non-commercial use only, images from Google Earth, "
    "see https://github.com/Junjue-Wang/LoveDA",
    val_images=1669,
    meters_per_pixel=0.3,
)
POTSDAM = Dataset(
    key="potsdam",
    title="Potsdam",
    crop=(512, 512),
    batch_per_gpu=4,
    resize_to=(512, 512),
    sliding_window=False,
    data_license="ISPRS Potsdam: on request from the ISPRS, "
    "see https://www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-potsdam.aspx",
    val_images=2016,
    meters_per_pixel=0.05,
    figures_note=_ISPRS_NOTE.format("2,016"),
)
VAIHINGEN = replace(
    POTSDAM,
    key="vaihingen",
    title="Vaihingen",
    data_license="ISPRS Vaihingen: on request from the ISPRS, "
    "see https://www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-vaihingen.aspx",
    val_images=398,
    meters_per_pixel=0.09,
    bands=("near infrared", "red", "green"),
    figures_note=_ISPRS_NOTE.format("398"),
)
ISAID = Dataset(
    key="isaid",
    title="iSAID",
    crop=(896, 896),
    batch_per_gpu=4,
    resize_to=(896, 896),
    sliding_window=False,
    data_license="iSAID: images of DOTA, academic use only, partly from Google Earth, "
    "see https://captain-whu.github.io/iSAID/ and https://captain-whu.github.io/DOTA/dataset.html",
    val_images=11_644,
    figures_note="measured on 11,644 tiles of 896 x 896 pixels that overlap by 384, so that most pixels are scored "
    "up to four times",
)
DATASETS = {
    dataset.key: dataset
    for dataset in (
        *(CITYSCAPES, ADE20K, VOC12AUG, PASCAL_CONTEXT),
        *(PASCAL_CONTEXT_59, LOVEDA, POTSDAM, VAIHINGEN, ISAID),
    )
}

# The street scenes that `hrnet_zoo.demo` generates, with the classes of Cityscapes.
SCENES = replace(
    CITYSCAPES,
    title="generated street scenes",
    crop=(256, 256),
    batch_per_gpu=8,
    resize_to=(768, 384),  # the size that scenes are drawn at
    data_license="generated by hrnet_zoo.demo.scenes, Apache-2.0",
    val_images=50,
)
