"""The result of a prediction: mask, class names, fractions, overlay with legend, label file, notebook display."""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageShow

from hrnet_zoo.datasets.dataset import BLACK, DATASETS, WHITE, Color, distinct_colors, is_background
from hrnet_zoo.datasets.label_rules import IGNORE_INDEX, OFFICIAL_LABELS
from hrnet_zoo.errors import ConfigError, ImageError, OutputError, printable
from hrnet_zoo.images.atomic import atomic_write, png
from hrnet_zoo.inference.annotations import coco, geojson, labelme
from hrnet_zoo.inference.legend import CONFIDENCE_COLORS, add_legend, add_scale
from hrnet_zoo.inference.notebook import Colored, to_html
from hrnet_zoo.inference.regions import Region, find_regions

if TYPE_CHECKING:
    from hrnet_zoo.inference.agreement import ResultComparison

_NOTEBOOK_SIDE = 1600  # pixels: a few MB at most
UNLABELED = "unlabeled"  # what the legend calls pixels below `min_confidence`
_ROWS = 256  # of the confidence that are summed together, in float64
_INSTEAD = {  # what people of other libraries type
    **dict.fromkeys(("plot", "render", "visualize", "draw"), "overlay()"),
    **dict.fromkeys(("masks", "pred_sem_seg", "seg_map", "labels", "argmax"), "mask"),
    **dict.fromkeys(("names", "CLASSES", "id2label"), "classes"),
    **dict.fromkeys(("probs", "logits", "seg_logits"), "probabilities, after predict(..., probabilities=True)"),
    **dict.fromkeys(("conf", "scores"), "confidence, after predict(..., confidence=True)"),
    "PALETTE": "palette",
}


@dataclass(frozen=True, eq=False, repr=False)
class SegmentationResult:
    """The class of each pixel of an image, and ways to read, show and save it.

    Attributes:
        image: the image as displayed, (height, width, 3) uint8 RGB, 0-255.
        mask: index of each pixel's class, (height, width) uint8; 255 if its probability is below `min_confidence`.
        classes: names by index; at most 256.
        palette: colors by index, RGB, 0-255.
        probabilities: (classes, height, width) float32, 0-1, or None if they were not asked for.
        confidence: probability of each pixel's best class, (height, width) float16, 0-1, or None if not asked for.
        path: of the image's file, as it was given; None if the image was none.

    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    probabilities: npt.NDArray[np.float32] | None = None
    confidence: npt.NDArray[np.float16] | None = None
    path: Path | None = None

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the mask: `np.asarray(result)`."""
        # NumPy 1 knows no copy=None.
        return np.asarray(self.mask, dtype) if copy is None else np.array(self.mask, dtype, copy=copy)

    if not TYPE_CHECKING:  # which finds wrong names itself

        def __getattr__(self, name: str) -> NoReturn:
            """Name our attribute for that of another library."""
            hint = f"; use .{_INSTEAD[name]}" if name in _INSTEAD else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

    def show(self) -> None:
        """Open the overlay in the system's image viewer; ConfigError if there is none, or no display for it."""
        viewer = next(iter(ImageShow._viewers), None)  # the first, which Pillow will use
        # xdg-open finds a window, or a browser; without them it prints what it tried.
        is_blind = isinstance(viewer, ImageShow.UnixViewer) and not {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & {
            *os.environ
        }
        if is_blind or not ImageShow.show(self.overlay()):
            raise ConfigError(
                asked="show a segmentation result",
                found="there is no display" if is_blind else "Pillow finds no image viewer on this machine",
                done="no window was opened",
                advice='use result.overlay().save("overlay.png")',
            )

    def fractions(self, panorama: bool = False) -> dict[str, float]:
        """Return the fraction of the pixels of each class present, by name, largest first.

        They sum to 1, or to less where `min_confidence` left pixels unlabeled.

        Args:
            panorama: the image is equirectangular: weigh each pixel by its solid angle, the cosine of its latitude, so
                that the fractions are of the whole sphere.

        Raises:
            ImageError: `panorama` is given, and the image is not twice as wide as high.

        """
        shares: dict[str, float] = {}
        for index, share in self._shares(panorama):
            if index < len(self.classes):
                shares[self.classes[index]] = shares.get(self.classes[index], 0.0) + share
        return shares

    def mean_confidence(self) -> dict[str, float]:
        """Return the mean confidence of the pixels of each class present, by name, in the order of `fractions`.

        Raises:
            ConfigError: the result has no confidence.

        """
        confidence = self._known_confidence("mean_confidence")
        sums, counts = np.zeros(256), np.zeros(256)
        for start in range(0, len(self.mask), _ROWS):
            rows = slice(start, start + _ROWS)
            sums += np.bincount(self.mask[rows].ravel(), confidence[rows].ravel(), 256)
            counts += np.bincount(self.mask[rows].ravel(), minlength=256)
        means = {}
        for name in self.fractions():
            indices = [index for index, each in enumerate(self.classes) if each == name]
            means[name] = float(sums[indices].sum() / counts[indices].sum())
        return means

    def confidence_image(self, scale: bool = True) -> Image.Image:
        """Return the confidence in colors from dark blue (0) to yellow (1), as an RGB image.

        Equal steps of confidence look equal, to color-blind readers as well.

        Args:
            scale: add the scale at the right.

        Raises:
            ConfigError: the result has no confidence.

        """
        levels = Image.fromarray(
            (self._known_confidence("confidence_image") * np.float16(255)).round().astype(np.uint8)
        )
        levels.putpalette([level for color in CONFIDENCE_COLORS for level in color])
        image = levels.convert("RGB")
        return add_scale(image, CONFIDENCE_COLORS) if scale else image

    def colorize(self) -> Image.Image:
        """Return the mask in the colors of the palette, as an RGB image; unlabeled pixels are white."""
        return self._labels().convert("RGB")

    def overlay(self, alpha: float = 0.5, legend: bool = True) -> Image.Image:
        """Return the image with the colors of the classes over it, as an RGB image.

        Class 0 stays uncolored if it is called "background" and its color is black; so do unlabeled pixels.

        Args:
            alpha: opacity of the colors, from 0 (image alone) to 1 (colors alone).
            legend: add a legend at the right: the classes present and their fractions, largest first.

        Raises:
            ConfigError: `alpha` is outside 0..1.

        """
        if not isinstance(alpha, Real) or not 0 <= alpha <= 1:
            raise ConfigError(
                asked=f"overlay(alpha={alpha!r})",
                found="a weight outside 0..1",
                done="nothing was drawn",
                advice="0 shows the image alone, 1 the colors alone",
            )
        photo = Image.fromarray(self.image)
        blended = Image.blend(photo, self.colorize(), alpha)
        if uncolored := self._uncolored():
            shown = [255 if index in uncolored else 0 for index in range(256)]
            blended.paste(photo, mask=Image.fromarray(self.mask).point(shown))
        return add_legend(blended, self.legend()) if legend else blended

    def legend(self) -> list[tuple[Color, str, str]]:
        """Return color (RGB, 0-255), name and share (as "12.3 %") of what the overlay shows, largest first."""
        names = dict(enumerate(self.classes))
        return [
            (
                WHITE if index in self._uncolored() else self.palette[index],
                names.get(index, UNLABELED),
                _percent(share),
            )
            for index, share in self._shares()
        ]

    def regions(self, min_area: int = 0) -> list[Region]:
        """Return the connected regions, largest first, with area, box, centroid, confidence and polygon.

        Pixels of one class are connected through their edges; those that touch at a corner alone are two regions.
        Unlabeled pixels are in none.

        Args:
            min_area: leave out regions with fewer pixels.

        Raises:
            ConfigError: `min_area` is negative.

        """
        return find_regions(self.mask, self.classes, self.confidence, min_area)[0]

    def to_geojson(
        self, min_area: int = 0, simplify: float = 0, transform: Sequence[float] | None = None
    ) -> dict[str, Any]:
        """Return a GeoJSON FeatureCollection: a polygon for each region, largest first.

        The polygons run along the edges of pixels, share their borders without gaps, and give the mask back to the
        bit when they are rasterized. `json.dump` writes them.

        Args:
            min_area: leave out regions with fewer pixels.
            simplify: drop points of the borders, which stay shared, up to about this many pixels (extra `geo`); 0:
                exact. The member "simplified" says how many pixels that moves to another region, or to none.
            transform: (a, b, c, d, e, f), or rasterio's `Affine`, from pixels to the coordinates of a map:
                a x + b y + c and d x + e y + f. Without it coordinates are pixels: x to the right, y down, integers
                between pixels.

        Returns:
            The features' properties are "class", "class_index", "area" in pixels, "share" of the image (0-1), "holes",
            and "confidence" (0-1) if the result knows it.

        Raises:
            ConfigError: `min_area` or `simplify` is negative, shapely is missing, or `transform` cannot be inverted.

        """
        return geojson(self, min_area, simplify, transform)

    def to_coco(self, file_name: str | None = None, min_area: int = 0) -> dict[str, Any]:
        """Return a COCO data set of this image: an annotation with a run-length mask for each region.

        Run lengths, because COCO's polygons cannot have holes; pycocotools reads them. The id of a category is the
        index of the class + 1. "score" is the mean confidence, if the result knows it.

        Args:
            file_name: name of the image, as the tool that reads the data set shall find it; None: `path`.
            min_area: leave out regions with fewer pixels.

        Raises:
            ConfigError: `min_area` is negative, or the image had no path and none is given.

        """
        return coco(self, file_name or self._known_path("to_coco").as_posix(), min_area)

    def to_labelme(self, image_path: str | None = None, min_area: int = 0, simplify: float = 0) -> dict[str, Any]:
        """Return a label file of LabelMe: the exterior of each region as a polygon.

        LabelMe's polygons have no holes: what lies in a hole comes later, and so over it. A hole that no region fills
        (unlabeled pixels, or less than `min_area`) is lost. LabelMe draws polygons with their border, about a pixel too
        wide, when it makes a mask of them.

        Args:
            image_path: path of the image from the label file; None: it lies beside the image.
            min_area: leave out regions with fewer pixels.
            simplify: as in `to_geojson`.

        Raises:
            ConfigError: as in `to_geojson`; or the image had no path and none is given.

        """
        return labelme(self, image_path or self._known_path("to_labelme").name, min_area, simplify)

    def crop(self, what: str | Region) -> Image.Image:
        """Return the image cut to the box of a region, or of the largest region of a class.

        Args:
            what: the name of a class, or one of `regions()`.

        Raises:
            ConfigError: no such class, or no pixel of it in the image.

        """
        if not isinstance(what, Region):
            self._require_classes(f"crop({what!r})", [what])
            found = [region for region in self.regions() if region.class_name == what]
            if not found:
                present = ", ".join(self.fractions()) or "none"
                raise ConfigError(
                    asked=f"crop({what!r})",
                    found=f"no pixel of this class; the image has {printable(present)}",
                    done="nothing was cut",
                    advice="ask result.fractions() first",
                )
            what = found[0]
        return Image.fromarray(self.image).crop(what.box)

    def remap(self, labels: str | Mapping[str, int]) -> npt.NDArray[np.uint8]:
        """Return the mask in other labels, (height, width) uint8.

        Args:
            labels: a label, 0 to 255, for each class by name; classes left out and unlabeled pixels become 255. Or
                "cityscapes" for its official ids (`labelIds`); "ade20k", "pascal_context_59", "loveda", "potsdam" or
                "vaihingen" for the values of their label files (class + 1); unlabeled pixels become 0. The classes
                must be the data set's own then, in any order.

        Raises:
            ConfigError: no such class or data set, or no such label.

        """
        asked = f"remap({labels!r})" if isinstance(labels, str) else "remap(...)"
        rest = IGNORE_INDEX
        if isinstance(labels, str):
            if labels not in OFFICIAL_LABELS:
                raise _no_such(asked, [labels], OFFICIAL_LABELS)
            rule, names = OFFICIAL_LABELS[labels], DATASETS[labels].classes
            if unknown := [name for name in self.classes if name not in names]:
                raise _no_such(asked, unknown, names)
            labels, rest = dict(zip(names, rule.of_class, strict=True)), rule.ignored[0]
        elif not isinstance(labels, Mapping):
            raise _no_such(asked, [labels], OFFICIAL_LABELS)
        else:
            self._require_classes(asked, labels)
        if wrong := {name: label for name, label in labels.items() if label not in range(256)}:
            raise ConfigError(
                asked=asked,
                found=f"labels that do not fit into 8 bits: {printable(wrong)}",
                done="nothing was computed",
                advice="give numbers from 0 to 255",
            )
        table = np.full(256, rest, np.uint8)
        table[: len(self.classes)] = [labels.get(name, rest) for name in self.classes]
        remapped: npt.NDArray[np.uint8] = table[self.mask]
        return remapped

    def compare(self, other: "SegmentationResult") -> "ResultComparison":
        """Return how far another result of the same image agrees: over all pixels, by class, and as a picture.

        Raises:
            ConfigError: no result, other classes, or another size.

        """
        from hrnet_zoo.inference.agreement import compare_results

        return compare_results(self, other)

    def save(self, path: str | Path) -> None:
        """Write the mask as a palette PNG: viewers show colors, `np.asarray(PIL.Image.open(path))` is the mask.

        An existing file is replaced at one moment. To look at the result, save `overlay()` instead.

        Raises:
            OutputError: the name does not end in .png, or the file cannot be written.

        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise OutputError(
                asked=f"save the labels as {path}",
                found=f"the ending {path.suffix!r}; label indices survive only in a lossless palette image",
                done="no file was written",
                advice="use .png; for an image to look at, overlay().save(path)",
                path=path,
            )
        atomic_write(path, png(self._labels()))

    def __repr__(self) -> str:
        height, width = self.mask.shape
        shares = self.fractions() or {UNLABELED: 1.0}
        top = [f"{printable(name)} {_percent(share)}" for name, share in list(shares.items())[:3]]
        return f"SegmentationResult({width} x {height} pixels: {', '.join(top)})"

    def _repr_png_(self) -> bytes:
        """Return the overlay for a notebook, reduced if it is large."""
        image = self.overlay()
        image.thumbnail((_NOTEBOOK_SIDE, _NOTEBOOK_SIDE))
        return png(image)

    def _repr_html_(self) -> str:
        """Return image, overlay, mask and confidence to switch between, for a notebook."""
        small, palette = self._reduced(), self._color_blind_palette()
        own, safe = (
            Colored(shown.overlay(legend=False), shown._labels(), result.legend())
            for shown, result in ((small, self), (replace(small, palette=palette), replace(self, palette=palette)))
        )
        known = self.confidence is not None
        confidence = small.confidence_image() if known else None
        means = self.mean_confidence() if known else {}
        return to_html(Image.fromarray(small.image), own, safe, confidence, means, self.path.name if self.path else "")

    def _color_blind_palette(self) -> tuple[Color, ...]:
        """Return a palette whose colors differ the most for the most frequent classes; overlays leave out the same."""
        colored = [index for index, _ in self._shares() if index not in self._uncolored()]
        palette = list(self.palette)
        for index, color in zip(colored, distinct_colors(), strict=False):
            palette[index] = color
        return tuple(palette)

    def _reduced(self) -> "SegmentationResult":
        """Return this result at the size of a notebook."""
        side = max(self.mask.shape)
        if side <= _NOTEBOOK_SIDE:
            return self
        height, width = (max(1, round(length * _NOTEBOOK_SIDE / side)) for length in self.mask.shape)
        rows, columns = (
            (np.arange(new) + 0.5) * old // new for new, old in zip((height, width), self.mask.shape, strict=True)
        )
        nearest = np.ix_(rows.astype(np.intp), columns.astype(np.intp))
        return replace(
            self,
            image=np.asarray(Image.fromarray(self.image).resize((width, height), reducing_gap=2)),
            mask=self.mask[nearest],
            probabilities=None,
            confidence=None if self.confidence is None else self.confidence[nearest],
        )

    def _require_classes(self, asked: str, names: Iterable[str]) -> None:
        if unknown := [name for name in names if name not in self.classes]:
            raise _no_such(asked, unknown, self.classes)

    def _known_confidence(self, method: str) -> npt.NDArray[np.float16]:
        if self.confidence is None:
            raise ConfigError(
                asked=f"{method}()",
                found="a result without confidence",
                done="nothing was computed",
                advice="use model.predict(image, confidence=True)",
            )
        return self.confidence

    def _known_path(self, method: str) -> Path:
        if self.path is None:
            raise ConfigError(
                asked=f"{method}()",
                found="a result of an image that was no file",
                done="nothing was written",
                advice=f'name the image: {method}("street.jpg")',
            )
        return self.path

    def _uncolored(self) -> set[int]:
        """Return the labels that overlays leave uncolored: a black background, and pixels without a class."""
        unlabeled = set(range(len(self.classes), 256)) & {IGNORE_INDEX}
        return unlabeled | {0} if is_background(self.classes[0]) and self.palette[0] == BLACK else unlabeled

    def _shares(self, panorama: bool = False) -> list[tuple[int, float]]:
        counts = Image.fromarray(self.mask).histogram()  # of 256 values, without the int64 copy of np.bincount
        shares = self._solid_angles() if panorama else [count / self.mask.size for count in counts]
        present = [(index, share) for index, share in enumerate(shares) if counts[index]]
        return sorted(present, key=lambda item: -item[1])

    def _solid_angles(self) -> list[float]:
        """Return the fraction of the sphere by index, 256 values."""
        height, width = self.mask.shape
        if width != 2 * height:
            raise ImageError(
                asked="weigh the pixels of a panorama by solid angle",
                found=f"{width} x {height} pixels; an equirectangular panorama is twice as wide as high",
                done="nothing was weighed",
                advice="leave panorama out for other images, and for panoramas of less than 360 x 180 degrees",
                source="a result",
            )
        # The sines of the edges of a row, of which the solid angle is the difference, differ by this times a constant.
        weights = np.cos(np.pi * ((np.arange(height) + 0.5) / height - 0.5))
        fractions = np.zeros(256)
        for weight, row in zip(weights / (width * weights.sum()), self.mask, strict=True):
            fractions += weight * np.bincount(row, minlength=256)
        return fractions.tolist()

    def _labels(self) -> Image.Image:
        labels = Image.fromarray(self.mask)
        colors = list(self.palette)
        if self.mask.max() >= len(colors):  # unlabeled pixels
            colors += (256 - len(colors)) * [WHITE]
        labels.putpalette([level for color in colors for level in color])
        return labels


def _no_such(asked: str, unknown: Sequence[str], known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(str(unknown[0]), names := list(known), n=3, cutoff=0.5) or names[:20]
    return ConfigError(
        asked=printable(asked),
        found=f"no {printable(repr(unknown[0]))}",
        done="nothing was computed",
        advice=f"the nearest are {printable(', '.join(near))}",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
