"""The result of a prediction: mask, class names, fractions, overlay with legend, label file, notebook display."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageShow

from hrnet_zoo.datasets.dataset import BLACK, is_background
from hrnet_zoo.errors import ConfigError, OutputError, printable
from hrnet_zoo.images.atomic import atomic_write, png
from hrnet_zoo.inference.legend import add_legend

_NOTEBOOK_SIDE = 1600  # pixels: a few MB at most
_INSTEAD = {  # what people of other libraries type
    **dict.fromkeys(("plot", "render", "visualize", "draw"), "overlay()"),
    **dict.fromkeys(("masks", "pred_sem_seg", "seg_map", "labels", "argmax"), "mask"),
    **dict.fromkeys(("names", "CLASSES", "id2label"), "classes"),
    **dict.fromkeys(("probs", "logits", "seg_logits", "conf"), "probabilities, after predict(..., probabilities=True)"),
    "PALETTE": "palette",
}


@dataclass(frozen=True, eq=False, repr=False)
class SegmentationResult:
    """The class of each pixel of an image, and ways to read, show and save it.

    Attributes:
        image: the image as displayed, (height, width, 3) uint8 RGB, 0-255.
        mask: index of each pixel's class, (height, width) uint8.
        classes: names by index; at most 256.
        palette: colors by index, RGB, 0-255.
        probabilities: (classes, height, width) float32, 0-1, or None if they were not asked for.

    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    probabilities: npt.NDArray[np.float32] | None = None

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
        """Open the overlay in the system's image viewer, or raise ConfigError if there is none."""
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
        if not legend:
            return blended
        colors = ((255, 255, 255), *self.palette[1:]) if self._background_uncolored else self.palette
        return add_legend(
            blended, [(colors[index], self.classes[index], _percent(share)) for index, share in self._shares()]
        )

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


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
