"""Maps: what `predict` does with a GeoTIFF when --out names a GeoTIFF, too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hrnet_zoo.cli.output import say, say_json
from hrnet_zoo.images.atomic import check_place

if TYPE_CHECKING:
    from hrnet_zoo.inference.predict import PredictOptions
    from hrnet_zoo.models.base import SegmentationModel

# Options of `predict` that maps have, too.
_COMMON = (
    *("name", "images", "out", "checkpoint", "classes", "ms_flip", "only", "min_confidence", "fast", "force"),
    *("max_memory", "device", "dtype", "as_json", "table", "geojson", "min_area", "simplify"),
)


def _numbers(kind: type, count: int | None = None) -> Callable[[Any, Any, str | None], tuple[float, ...] | None]:
    def parse(_: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
        try:
            numbers = None if text is None else tuple(kind(each) for each in text.split(","))
        except ValueError:
            numbers = ()
        if numbers is not None and len(numbers) != (count or len(numbers) or 1):
            raise click.BadParameter(f"{text!r} is not {count or 'some'} numbers with commas between", param=option)
        return numbers

    return parse


_OPTIONS = {
    "bands": click.option(
        "--bands",
        callback=_numbers(int),
        metavar="R,G,B",
        help="Map: numbers of its red, green and blue bands, from 1, or of those that the network takes.",
    ),
    "value_range": click.option(
        "--range",
        "value_range",
        callback=_numbers(float, 2),
        metavar="LOW,HIGH",
        help="Map: the values that are black and white; must be given for more than 8 bits.",
    ),
    "resolution": click.option(
        "--resolution", type=float, help="Map: meters per pixel to show to the network; default: those of its training."
    ),
    "overlap": click.option(
        "--overlap", type=int, help="Map: pixels that a window sees beyond those it labels, at each side."
    ),
    "window": click.option("--window", type=int, help="Map: side of the windows that the network sees, in pixels."),
    "polygons": click.option(
        "--polygons", type=click.Path(path_type=Path, dir_okay=False), help="Map: GeoJSON; hectares within each, too."
    ),
}


def map_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of maps, and those that were given as the argument `map_arguments`."""

    @functools.wraps(command)
    def with_maps(**arguments: Any) -> None:  # noqa: ANN401 - of the command
        given = {name: value for name in _OPTIONS if (value := arguments.pop(name)) is not None}
        command(map_arguments=given, **arguments)

    for option in reversed(_OPTIONS.values()):
        with_maps = option(with_maps)
    return with_maps


def is_map(out: Path, map_arguments: dict[str, Any]) -> bool:
    """Return whether --out names a map; UsageError if it does not, and options of maps are given."""
    if out.suffix.lower() in (".tif", ".tiff") and not out.is_dir():
        return True
    if map_arguments:
        options = " and ".join(f"--{name.replace('value_', '')}" for name in map_arguments)
        raise click.UsageError(f"{options}: for maps alone, which --out names: --out map.tif")
    return False


def check_map(images: tuple[str, ...], out: Path, *, force: bool) -> None:
    """Raise UsageError for several scenes or options that maps do not have, OutputError if the map exists."""
    if len(images) != 1:
        raise click.UsageError("a map is made of one GeoTIFF: name one, or a folder as --out")
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in (*_COMMON, *_OPTIONS) and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} is for images: leave it out for a map")

    check_place(out, force=force)


def write_map(
    model: SegmentationModel,
    source: str,
    out: Path,
    options: PredictOptions,
    map_arguments: dict[str, Any],
    *,
    table: Path | None,
    geojson: dict[str, Any] | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write a map, a table of the hectares of each polygon or of the map, and its regions if `geojson` says how."""
    import hrnet_zoo
    from hrnet_zoo.inference.annotations import write_json
    from hrnet_zoo.inference.tables import TableWriter

    common = {name: getattr(options, name) for name in ("ms_flip", "max_memory", "classes", "min_confidence")}
    regions = out.with_suffix(".geojson")
    if geojson:
        check_place(regions, force=force)
    report = hrnet_zoo.predict_map(model, source, out, force=force, progress=True, **common, **map_arguments)
    if table:
        with TableWriter(table, ["polygon", *report.hectares], force=force) as rows:
            for name, hectares in report.polygons or [(source, report.hectares)]:
                rows.append({"polygon": name, **hectares})
    if geojson:
        write_json(regions, report.to_geojson(**geojson))
    if as_json:
        say_json({**asdict(report), "path": str(report.path)})
        return
    say(f"{report.path}: {_shown(report.hectares)}; {report.empty_windows} of the windows had no data")
    for name, hectares in report.polygons:
        say(f"polygon {name}: {_shown(hectares)}")


def _shown(hectares: dict[str, float]) -> str:
    present = sorted(((area, name) for name, area in hectares.items() if area), reverse=True)
    return ", ".join(f"{name} {area:,.4f} ha" for area, name in present) or "no labeled pixel"
