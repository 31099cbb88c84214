"""What stands at the right of a picture: the legend of an overlay, the scale of a confidence."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hrnet_zoo.datasets.dataset import Color

LONGEST_NAME = 32  # characters; longer names are cut
FEWEST_ROWS = 8  # of a column, however flat the image


def _color_ramp(dark: Sequence[float], light: Sequence[float]) -> tuple[Color, ...]:
    """Return 256 sRGB colors on the line between two colors of OKLab (lightness, green to red, blue to yellow).

    Equal steps on a line in OKLab look equal. The matrices are those of its author (Bjorn Ottosson, "A perceptual
    color space for image processing", 2020), the curve is that of sRGB (IEC 61966-2-1).
    """
    lab = np.linspace(dark, light, 256)
    to_cones = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.707614701],
        ]
    )
    linear = ((lab @ to_cones.T) ** 3 @ to_linear.T).clip(0, 1)
    levels = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return tuple((red, green, blue) for red, green, blue in np.rint(255 * levels).astype(int).tolist())


# From dark blue to yellow: lightness rises evenly, and the hue changes along the axis that color-blind readers see.
CONFIDENCE_COLORS = _color_ramp((0.22, 0.0, -0.105), (0.93, 0.0, 0.18))


def add_legend(image: Image.Image, entries: Sequence[tuple[Color, str, str]]) -> Image.Image:
    """Return an RGB image with a legend at its right: for each entry a color, a name and a fraction."""
    width, height = image.size
    size, font = _font(image)
    row, gap = round(1.5 * size), size // 2
    names = [" ".join(name.split()) for _, name, _ in entries]
    names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..." for name in names]
    rows = max(FEWEST_ROWS, (height - 2 * gap) // row)
    columns = -(-len(entries) // rows)
    rows = -(-len(entries) // columns)  # level columns
    longest_name = math.ceil(max(map(font.getlength, names)))
    longest_share = math.ceil(max(font.getlength(share) for _, _, share in entries))
    column = size + gap + longest_name + 2 * gap + longest_share + 4 * gap  # wider between columns than within
    canvas = Image.new("RGB", (width + columns * column, max(height, rows * row + 2 * gap)), "white")
    canvas.paste(image)
    draw = ImageDraw.Draw(canvas)
    for place, ((color, _, share), name) in enumerate(zip(entries, names, strict=True)):
        x = width + 2 * gap + place // rows * column
        middle = gap + place % rows * row + row // 2
        box = (x, middle - size // 2, x + size, middle - size // 2 + size)
        draw.rectangle(box, fill=color, outline=(128, 128, 128), width=max(1, size // 16))  # white needs an edge
        draw.text((x + size + gap, middle), name, "black", font, anchor="lm")
        draw.text((x + column - 4 * gap, middle), share, (96, 96, 96), font, anchor="rm")
    return canvas


def add_scale(image: Image.Image, colors: Sequence[Color]) -> Image.Image:
    """Return an RGB image with a scale from 0 % at the bottom to 100 % at the top at its right."""
    width, height = image.size
    size, font = _font(image)
    labels = ("0 %", "25 %", "50 %", "75 %", "100 %")
    longest = math.ceil(max(map(font.getlength, labels)))
    canvas = Image.new("RGB", (width + 5 * size + longest, max(height, 2 * size * len(labels))), "white")
    canvas.paste(image)
    left, top, bottom = width + size, size, canvas.height - size
    steps = np.linspace(255, 0, bottom - top).round().astype(int)
    bar = np.repeat(np.array(colors, np.uint8)[steps][:, None], 2 * size, axis=1)
    canvas.paste(Image.fromarray(bar), (left, top))
    draw = ImageDraw.Draw(canvas)
    for place, label in enumerate(labels):
        y = bottom - 1 - round(place * (bottom - 1 - top) / (len(labels) - 1))
        draw.line((left + 2 * size, y, left + 2 * size + size // 2, y), (96, 96, 96), max(1, size // 12))
        draw.text((canvas.width - size, y), label, "black", font, anchor="rm")
    return canvas


def _font(image: Image.Image) -> tuple[int, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    size = max(12, round(math.sqrt(image.width * image.height) / 45))
    return size, ImageFont.load_default(size)
