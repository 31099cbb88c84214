"""A result as HTML for notebooks: views and palettes to switch between, by CSS alone."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image

from hrnet_zoo.datasets.dataset import Color
from hrnet_zoo.errors import printable
from hrnet_zoo.images.atomic import png

_QUALITY = 90  # of JPEG

# Browsers without :has() (before 2024) and viewers that remove styles show all views, one below the other.
_STYLE = """
.hrnet-zoo label { margin-right: 1em; }
.hrnet-zoo img { max-width: 100%; margin: 4px 0; }
.hrnet-zoo div:last-child { max-height: 30em; overflow-y: auto; }
.hrnet-zoo table { border-collapse: collapse; margin: 4px 0; }
.hrnet-zoo td, .hrnet-zoo th { padding: 1px 8px; text-align: right; }
.hrnet-zoo .name { text-align: left; }
.hrnet-zoo .swatch { display: inline-block; width: 1em; height: 1em; border: 1px solid gray; }
@supports selector(:has(*)) {
  .hrnet-zoo .view { display: none; }
  .hrnet-zoo:has([value=image]:checked) .image, .hrnet-zoo:has([value=overlay]:checked) .overlay,
  .hrnet-zoo:has([value=mask]:checked) .mask, .hrnet-zoo:has([value=confidence]:checked) .confidence
    { display: block; }
  .hrnet-zoo:has([value=own]:checked) .safe, .hrnet-zoo:has([value=safe]:checked) .own { display: none; }
}
"""


class Colored(NamedTuple):
    """A result in the colors of one palette; the legend has color, name and share of each class, largest first."""

    overlay: Image.Image
    mask: Image.Image  # with a palette: small as a PNG
    legend: Sequence[tuple[Color, str, str]]


def to_html(
    image: Image.Image,
    own: Colored,
    safe: Colored,
    confidence: Image.Image | None,
    mean_confidence: Mapping[str, float],
    title: str = "",
) -> str:
    """Return a form: radio buttons, the views of a result, and its legend.

    Args:
        image: RGB image that was labeled.
        own: the result in its palette.
        safe: the result in colors that color-blind readers can tell apart.
        confidence: picture of the confidence, if it is known.
        mean_confidence: of each class, by name; empty if not known.
        title: name of the image.

    """
    views = [_view("image", _jpeg(image))]
    for palette, colored in (("own", own), ("safe", safe)):
        views += [
            _view(f"overlay {palette}", _jpeg(colored.overlay)),
            _view(f"mask {palette}", _address("png", png(colored.mask))),
        ]
    kinds = {"overlay": "overlay", "image": "image", "mask": "mask"}
    if confidence:
        kinds["confidence"] = "confidence"
        views.append(_view("confidence", _jpeg(confidence)))
    rows = [["", '<td class="name">class</td>', "<td>share</td>"]]
    for (own_color, name, share), (safe_color, _, _) in zip(own.legend, safe.legend, strict=True):
        swatches = _swatch("own", own_color) + _swatch("safe", safe_color)
        rows.append(
            [swatches, f'<td class="name">{html.escape(printable(name))}</td>', f"<td>{html.escape(share)}</td>"]
        )
    if mean_confidence:
        means = [f"{100 * mean_confidence[name]:.1f} %" if name in mean_confidence else "" for _, name, _ in own.legend]
        rows = [[*row, f"<td>{mean}</td>"] for row, mean in zip(rows, ("mean confidence", *means), strict=True)]
    table = "".join(f"<tr><td>{first}</td>{''.join(others)}</tr>" for first, *others in rows)
    # Radio buttons of other results are in other forms. Enter does nothing in a form whose method is "dialog".
    return (
        f'<form class="hrnet-zoo" method="dialog"><style>{_STYLE}</style>'
        f"{title and f'<div><b>{html.escape(printable(title))}</b></div>'}"
        f"<div>{_radios('view', kinds)}</div>"
        f"<div>{_radios('palette', {'own': 'colors of the classes', 'safe': 'color-blind safe'})}</div>"
        f"{''.join(views)}<div><table>{table}</table></div></form>"
    )


def _radios(group: str, labels: Mapping[str, str]) -> str:
    """Return radio buttons, the first one checked."""
    return "".join(
        f'<label><input type="radio" name="{group}" value="{value}"{"" if number else " checked"}> {label}</label>'
        for number, (value, label) in enumerate(labels.items())
    )


def _view(classes: str, source: str) -> str:
    return f'<img class="view {classes}" alt="{classes}" src="{source}">'


def _swatch(palette: str, color: Color) -> str:
    return f'<span class="swatch {palette}" style="background: #{bytes(color).hex()}"></span>'


def _jpeg(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return _address("jpeg", file.getvalue())


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
