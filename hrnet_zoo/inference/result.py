"""The result of a prediction: mask, class names, fractions, overlay with legend, label file, notebook display."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageShow

from hrnet_zoo.datasets.dataset import BLACK, is_background
from hrnet_zoo.errors import ConfigError, OutputError, printable
from hrnet_zoo.images.atomic import atomic_write, png

_NOTEBOOK_SIDE = 1600  # pixels: a few MB at most
_LONGEST_NAME = 32  # characters; the legend cuts longer ones
_INSTEAD = {  # what people of other libraries type
    **dict.fromkeys(("plot", "render", "visualize", "draw"), "overlay()"),
    **dict.fromkeys(("masks", "pred_sem_seg", "seg_map", "labels", "argmax"), "mask"),
    **dict.fromkeys(("names", "CLASSES", "id2label"), "classes"),
    **dict.fromkeys(("probs", "logits", "seg_logits", "conf"), "probabilities, after predict(..., probabilities=True)"),
    "PALETTE": "palette",
}
_FEWEST_ROWS = 8  # of a legend column, however flat the image


@dataclass(frozen=True, eq=False, repr=False)
class SegmentationResult:
    """The class of each pixel of an image, and ways to read, show and save it.

    Attributes:
        image: the image as displayed, (height, width, 3) uint8 RGB, 0-255.
        mask: index of each pixel's class, (height, width) uint8.
        classes: names by index; at most 256.
        palette: colors by index, RGB, 0-255.
        probabilities: (classes, height, width) float32, 0-1, or None if they were not asked for.

    Raises:
        ConfigError: the parts do not fit together.

    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    probabilities: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        mask, count = self.mask, len(self.classes)
        fits = mask.dtype == np.uint8 and mask.ndim == 2 and mask.size and self.image.shape == (*mask.shape, 3)
        if not (fits and count == len(self.palette) <= 256 and int(mask.max()) < count):
            raise ConfigError(
                asked="make a segmentation result",
                found=f"mask {mask.dtype} {mask.shape} with values up to {mask.max(initial=0)}, image "
                f"{self.image.shape}, {count} classes, {len(self.palette)} colors",
                done="nothing was made",
                advice="the mask is uint8 (height, width) of the image's size and holds indices of the classes; "
                "each class has a color; there are at most 256",
            )

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the mask: `np.asarray(result)`."""
        # NumPy 1 knows no copy=None.
        return np.asarray(self.mask, dtype) if copy is None else np.array(self.mask, dtype, copy=copy)

    def __getitem__(self, index: object) -> NoReturn:
        raise TypeError(f"one image gives one result, and only a list of images a list: leave [{index}] out")

    if not TYPE_CHECKING:  # which finds wrong names itself

        def __getattr__(self, name: str) -> NoReturn:
            """Name our attribute for that of another library."""
            hint = f"; use .{_INSTEAD[name]}" if name in _INSTEAD else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

    def show(self) -> None:
        """Open the overlay in the system's image viewer. Notebooks display a result without it.

        Raises:
            ConfigError: there is no viewer.

        """
        if not ImageShow.show(self.overlay()):
            raise ConfigError(
                asked="show a segmentation result",
                found="Pillow finds no image viewer on this machine",
                done="no window was opened",
                advice='use result.overlay().save("overlay.png")',
            )

    def fractions(self) -> dict[str, float]:
        """Return the fraction of the pixels of each class present, by name, largest first; they sum to 1."""
        shares: dict[str, float] = {}
        for index, share in self._shares():
            shares[self.classes[index]] = shares.get(self.classes[index], 0.0) + share
        return shares

    def colorize(self) -> Image.Image:
        """Return the mask in the colors of the palette, as an RGB image."""
        return self._labels().convert("RGB")

    def overlay(self, alpha: float = 0.5, legend: bool = True) -> Image.Image:
        """Return the image with the colors of the classes over it, as an RGB image.

        Class 0 stays uncolored if it is called "background" and its color is black.

        Args:
            alpha: opacity of the colors, from 0 (image alone) to 1 (colors alone).
            legend: add a legend at the right: the classes present and their fractions, largest first.

        Raises:
            ConfigError: `alpha` is outside 0..1.

        """
        if not 0 <= alpha <= 1:
            raise ConfigError(
                asked=f"overlay(alpha={alpha})",
                found="a weight outside 0..1",
                done="nothing was drawn",
                advice="0 shows the image alone, 1 the colors alone",
            )
        photo = Image.fromarray(self.image)
        blended = Image.blend(photo, self.colorize(), alpha)
        if self._background_uncolored:
            blended.paste(photo, mask=Image.fromarray(self.mask).point([255] + 255 * [0]))
        return self._with_legend(blended) if legend else blended

    def save(self, path: str | Path) -> None:
        """Write the mask as a palette PNG: viewers show colors, `np.asarray(PIL.Image.open(path))` is the mask.

        An existing file is replaced at one moment. To look at the result, save `overlay()` instead.

        Raises:
            OutputError: the name does not end in .png, or the file cannot be written.

        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            found, advice = f"the ending {path.suffix!r}", "use .png; for an image to look at, overlay().save(path)"
            raise self._unsaved(path, f"{found}; label indices survive only in a lossless palette image", advice)
        if not path.parent.is_dir():
            raise self._unsaved(path, f"no folder {path.parent}", "create the folder first")
        atomic_write(path, png(self._labels()))

    def __repr__(self) -> str:
        height, width = self.mask.shape
        top = [f"{printable(name)} {_percent(share)}" for name, share in list(self.fractions().items())[:3]]
        return f"SegmentationResult({width} x {height} pixels: {', '.join(top)})"

    def _repr_png_(self) -> bytes:
        """Return the overlay for a notebook, reduced if it is large."""
        image = self.overlay()
        image.thumbnail((_NOTEBOOK_SIDE, _NOTEBOOK_SIDE))
        return png(image)

    @property
    def _background_uncolored(self) -> bool:
        """Whether class 0 is a background, which overlays leave uncolored."""
        return is_background(self.classes[0]) and self.palette[0] == BLACK

    def _shares(self) -> list[tuple[int, float]]:
        counts = Image.fromarray(self.mask).histogram()  # of 256 values, without the int64 copy of np.bincount
        present = [(index, count / self.mask.size) for index, count in enumerate(counts) if count]
        return sorted(present, key=lambda item: -item[1])

    def _labels(self) -> Image.Image:
        labels = Image.fromarray(self.mask)
        labels.putpalette([level for color in self.palette for level in color])
        return labels

    def _with_legend(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        size = max(12, round(math.sqrt(width * height) / 45))
        font = ImageFont.load_default(size)
        row, gap = round(1.5 * size), size // 2
        entries = []
        for index, share in self._shares():
            name = " ".join(self.classes[index].split())
            name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
            swatch = (255, 255, 255) if index == 0 and self._background_uncolored else self.palette[index]
            entries.append((swatch, name, _percent(share)))
        rows = max(_FEWEST_ROWS, (height - 2 * gap) // row)
        columns = -(-len(entries) // rows)
        rows = -(-len(entries) // columns)  # level columns
        names = math.ceil(max(font.getlength(name) for _, name, _ in entries))
        shares = math.ceil(max(font.getlength(percent) for _, _, percent in entries))
        column = size + gap + names + 2 * gap + shares + 4 * gap  # wider between columns than within
        canvas = Image.new("RGB", (width + columns * column, max(height, rows * row + 2 * gap)), "white")
        canvas.paste(image)
        draw = ImageDraw.Draw(canvas)
        for place, (color, name, percent) in enumerate(entries):
            x = width + 2 * gap + place // rows * column
            y = gap + place % rows * row
            middle = y + row // 2
            box = (x, middle - size // 2, x + size, middle - size // 2 + size)
            draw.rectangle(box, fill=color, outline=(128, 128, 128), width=max(1, size // 16))  # white needs an edge
            draw.text((x + size + gap, middle), name, "black", font, anchor="lm")
            draw.text((x + column - 4 * gap, middle), percent, (96, 96, 96), font, anchor="rm")
        return canvas

    def _unsaved(self, path: Path, found: str, advice: str) -> OutputError:
        return OutputError(
            asked=f"save the labels as {path}", found=found, done="no file was written", advice=advice, path=path
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
