"""The legend of an overlay: font, colors, class names and fractions at the right of an image."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

LONGEST_NAME = 32  # characters; longer names are cut
FEWEST_ROWS = 8  # of a column, however flat the image


def add_legend(image: Image.Image, entries: Sequence[tuple[tuple[int, int, int], str, str]]) -> Image.Image:
    """Return an RGB image with a legend at its right: for each entry a color, a name and a fraction."""
    width, height = image.size
    size = max(12, round(math.sqrt(width * height) / 45))
    font = ImageFont.load_default(size)
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
