"""A GeoTIFF larger than memory -> its map: a GeoTIFF of classes on the same grid, and hectares by class."""

from __future__ import annotations

import html
import math
import os
import re
import tempfile
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image

from hrnet_zoo import __version__
from hrnet_zoo.datasets.dataset import WHITE, Color
from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.errors import ConfigError, ImageError, OutputError
from hrnet_zoo.images.atomic import atomic_write, check_place, output_errors
from hrnet_zoo.images.bands import Pixels
from hrnet_zoo.images.formats import MAX_PIXELS
from hrnet_zoo.images.prefetch import prefetch_in_threads
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.inference.class_groups import ClassChoice
from hrnet_zoo.inference.predict import IMAGES_AHEAD, Input, PredictOptions, evaluating, label_each, resized
from hrnet_zoo.inference.rasters import (
    Areas,
    Labels,
    Place,
    Polygon,
    Scene,
    areas_of,
    areas_within,
    open_scene,
    read_polygons,
)
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.models.base import SegmentationModel

WINDOW, OVERLAP = 1536, 256  # pixels of the network's input: see the table in examples/guide_maps.md
STRIDE = 32  # of the network's coarsest branch: windows that begin at its multiples see the grid of the whole image
FARTHEST = 8  # times finer or coarser than the network's resolution; beyond it, a unit is wrong
SAME = 0.01  # resolutions that differ by less are the same
_BLOCK = 512  # side of the tiles in a map, GDAL's default for COG
_PIECE = 1 << 20  # bytes copied at once


@dataclass(frozen=True)
class MapReport:
    """What `predict_map` wrote.

    Attributes:
        path: the map.
        hectares: area of each class by name.
        polygons: name, and hectares of each class by name, of each polygon of the file.
        windows: how many windows went through the network.
        empty_windows: how many others had no data, and were skipped.
        bands: the numbers of the bands that were red, green and blue, or the network's own bands.
        value_range: the values that were black and white; None if the network takes bands as they are stored.
        resolution: meters on the ground of a pixel's side, as the network saw it.

    """

    path: Path
    hectares: dict[str, float]
    polygons: tuple[tuple[str, dict[str, float]], ...]
    windows: int
    empty_windows: int
    bands: tuple[int, ...]
    value_range: tuple[float, float] | None
    resolution: float

    def to_geojson(self, min_area: int = 0, simplify: float = 0) -> dict[str, Any]:
        """Return the regions of the map as `SegmentationResult.to_geojson` does, in the coordinates of its CRS.

        The member "crs" names it, which GDAL and QGIS read. The whole map is read.

        Raises:
            ConfigError: an argument cannot be, or the map has more than `images.formats.MAX_PIXELS` pixels.

        """
        import rasterio

        with rasterio.open(self.path) as raster:
            if raster.width * raster.height > MAX_PIXELS:
                found = f"{raster.width} x {raster.height} pixels; the limit is {MAX_PIXELS:,}"
                _refuse(f"polygons of {self.path}", found, f"gdal_polygonize.py {self.path} map.gpkg")
            mask, crs, transform = raster.read(1), raster.crs, raster.transform
        no_image = np.broadcast_to(np.uint8(0), (*mask.shape, 3))
        result = SegmentationResult(no_image, mask, tuple(self.hectares), ((0, 0, 0),) * len(self.hectares))
        code = crs.to_epsg()
        name = f"urn:ogc:def:crs:EPSG::{code}" if code else crs.to_wkt()
        head = {"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": name}}}
        return head | result.to_geojson(min_area, simplify, transform)


def predict_map(
    model: SegmentationModel,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    bands: Sequence[int] | None = None,
    value_range: tuple[float, float] | None = None,
    resolution: float | None = None,
    window: int = WINDOW,
    overlap: int = OVERLAP,
    polygons: str | os.PathLike[str] | None = None,
    classes: ClassChoice | None = None,
    min_confidence: float = 0.0,
    ms_flip: bool = False,
    max_memory: int | None = None,
    force: bool = False,
    progress: bool = False,
) -> MapReport:
    """Label a georeferenced GeoTIFF of any size, window by window, and write a map on the same grid.

    Each window goes through the network as an image at its own size (not the data set's `resize_to`). It sees `overlap`
    pixels more, at each side, than it labels. So the labels are those of the whole image, up to rounding, if the
    network sees no farther: 567 pixels for W18-Small, 1439 for W18 and W48. It does not see so far with much weight: of
    3008 x 3008 pixels, the demo network labels 0.008 % otherwise with an overlap of 256, and 1.5 % with 128. Where 32
    does not divide the image's side, a whole image is labeled with its coarse features stretched by up to a pixel.
    OCR heads sum up all that a window shows, so that no overlap makes them equal. Windows without data are skipped.

    Args:
        model: of `create_model` or `optimize`.
        source: GeoTIFF with a CRS and a transform.
        out: the map, a cloud-optimized GeoTIFF (tiles of 512 x 512, overviews) of class indices, uint8, on the grid of
            the source; 255, its nodata value, where the source has no data, or a class less than `min_confidence`. It
            has the palette, and the names of the classes as metadata of its band ("CLASS_0"). GDAL and QGIS read the
            names from `<out>.aux.xml` beside it, because GeoTIFF has no place for them.
        bands: numbers, from 1, of the bands for the network's three channels, or of one that is gray. None: those
            called red, green and blue; of three bands all, in their order; a gray one. For a network of other bands:
            as many as it takes; None: those that the file describes so, or all, if it has as many.
        value_range: values that become 0 and 255: round(255 (v - low) / (high - low)), within 0 to 255. None: 8 bits as
            they are; 16 bits from 0 to 2^NBITS - 1 if the file states NBITS. Otherwise it must be given. A network of
            other bands takes values as they are stored.
        resolution: meters on the ground of a pixel's side that the network shall see: the windows are resampled
            (bilinear, antialiased), and the labels are on the source's grid. None: the resolution of the images
            that it was trained on, if it is known, else that of the source.
        window: side of the windows, in pixels of the network's input; rounded up to a multiple of 32.
        overlap: pixels that a window sees beyond those it labels, at each side; rounded up as well.
        polygons: GeoJSON file of polygons, in WGS 84 or in the CRS of the source: see
            `hrnet_zoo.inference.rasters.read_polygons`. A pixel is in a polygon if its center is.
        classes: as for `model.predict`; so are `min_confidence`, `ms_flip` and `max_memory`.
        min_confidence: label pixels whose class has a lower probability with 255.
        ms_flip: average six scales of each window and their mirror images.
        max_memory: bytes for full-resolution logits.
        force: replace an existing map.
        progress: show a bar on a terminal, else a line once a minute.

    Returns:
        Hectares by class, of the map and of each polygon: in the plane of the projection, or on the ellipsoid if the
        CRS is in degrees or Mercator's.

    Raises:
        ConfigError: rasterio is missing (extra `geo`), or an argument cannot be.
        ImageError: the source is no GeoTIFF, damaged, without CRS, transform or such bands, of an unknown range of
            values, or without data.
        DatasetError: `polygons` is no GeoJSON file of polygons.
        OutputError: the map exists and `force` is not given, or it cannot be written. Nothing half-written is left.
        LogitsError: the logits are infinite or not a number.

    """
    out, asked = Path(out), f"write the map {out}"
    options = PredictOptions("whole", ms_flip, max_memory=max_memory, classes=classes, min_confidence=min_confidence)
    groups = options.groups(model.dataset)
    legend = Legend(*groups[:2]) if groups else Legend(model.classes, model.palette)
    _check(asked, out, legend, window, overlap)
    window, overlap = (-(-side // STRIDE) * STRIDE for side in (window, overlap))
    check_place(out, force=force)
    names_file = out.with_name(f"{out.name}.aux.xml")
    check_place(names_file, force=force)
    with evaluating(model) as network, open_scene(source, bands, value_range, model.dataset) as scene:
        if out.exists() and out.samefile(source):
            raise OutputError(
                asked=asked, found="it is the scene", done="nothing was written", advice="name another file", path=out
            )
        zones = [] if polygons is None else read_polygons(Path(polygons), scene.raster.crs)
        factor = _factor(scene, model.dataset.meters_per_pixel if resolution is None else resolution, asked)
        step, margin = (-(-side // factor) for side in (window - 2 * overlap, overlap))
        cells = list(_cells(scene.raster.height, scene.raster.width, int(step), int(margin)))
        facts = {
            "TIFFTAG_SOFTWARE": f"hrnet-zoo {__version__}",
            "MODEL": re.split(r"[/\\:]", getattr(model, "name", ""))[-1],  # of a model folder without those above it
            "BANDS": ",".join(map(str, scene.bands)),
            **({"VALUE_RANGE": "{:g},{:g}".format(*scene.value_range)} if scene.value_range else {}),
            "RESOLUTION": f"{scene.ground_resolution / factor:g}",
            "WINDOW": f"{window},{overlap}",
        }
        totals, done = np.zeros(256), 0
        with (
            output_errors(out, asked, "no map was made or changed", "check the permissions and the free space"),
            tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=out.parent) as folder,
        ):
            labels, cog = Path(folder, "labels.tif"), Path(folder, "map.tif")
            with (
                _create(labels, scene, legend, facts) as target,
                closing(_label(network, scene, cells, factor, options, progress)) as labeled,
            ):
                for place, mask in labeled:
                    target.write(mask, 1, window=place.window)
                    totals += areas_of(mask, scene.areas[place.rows])
                    done += 1
            if not done:
                raise scene.refusal("no pixel with data", "look at its nodata value and its mask: gdalinfo")
            within = _areas_within(labels, zones, scene.areas)
            _write_cog(labels, cog)
            atomic_write(names_file, _category_names(legend.classes))
            with cog.open("rb") as file:
                atomic_write(out, iter(lambda: file.read(_PIECE), b""))
    return MapReport(
        path=out,
        hectares=_hectares(totals, legend.classes),
        polygons=tuple(
            (zone.name, _hectares(areas, legend.classes)) for zone, areas in zip(zones, within, strict=True)
        ),
        windows=done,
        empty_windows=len(cells) - done,
        bands=scene.bands,
        value_range=scene.value_range,
        resolution=scene.ground_resolution / factor,
    )


class Legend(NamedTuple):
    """The classes of a map, and their colors."""

    classes: tuple[str, ...]
    palette: tuple[Color, ...]


class _Cell(NamedTuple):
    """What a window labels, and what it sees."""

    labeled: Place
    seen: Place


def _refuse(asked: str, found: str, advice: str) -> NoReturn:
    raise ConfigError(asked=asked, found=found, done="nothing was written", advice=advice)


def _check(asked: str, out: Path, legend: Legend, window: int, overlap: int) -> None:
    if out.suffix.lower() not in (".tif", ".tiff"):
        _refuse(asked, f"the ending {out.suffix!r}", "a map is a GeoTIFF: name it .tif")
    if len(legend.classes) > IGNORE_INDEX:
        _refuse(asked, f"{len(legend.classes)} classes; a map has 255 at most", "merge some of them: classes=")
    if overlap < 0 or window < 2 * overlap + STRIDE:
        found = f"windows of {window} pixels with an overlap of {overlap} at each side"
        _refuse(asked, found, f"choose a window that is at least {STRIDE} pixels larger than twice the overlap")


def _factor(scene: Scene, resolution: float | None, asked: str) -> float:
    """Return how many pixels of the network's input a pixel's side becomes."""
    if resolution is None:
        return 1.0
    if not (math.isfinite(resolution) and resolution > 0):
        _refuse(asked, f"a resolution of {resolution} meters", "give meters per pixel, such as 0.3")
    factor = scene.ground_resolution / resolution
    if not 1 / FARTHEST <= factor <= FARTHEST:
        found = f"pixels of {scene.ground_resolution:g} m, for a network of {resolution:g} m: too far apart to resample"
        _refuse(asked, found, f"resolution={scene.ground_resolution:g} (--resolution) takes the pixels as they are")
    return 1.0 if abs(factor - 1) < SAME else factor


def _cells(height: int, width: int, step: int, margin: int) -> Iterator[_Cell]:
    """Cut a raster into cells of `step` pixels, each seen with a margin; rows first."""

    def sides(length: int) -> list[tuple[slice, slice]]:
        return [
            (slice(start, min(start + step, length)), slice(max(start - margin, 0), min(start + step + margin, length)))
            for start in range(0, length, step)
        ]

    for rows, rows_seen in sides(height):
        for columns, columns_seen in sides(width):
            yield _Cell(Place(rows, columns), Place(rows_seen, columns_seen))


def _label(
    network: SegmentationModel,
    scene: Scene,
    cells: Sequence[_Cell],
    factor: float,
    options: PredictOptions,
    progress: bool,
) -> Generator[tuple[Place, Labels], None, None]:
    """Yield each cell's place and its labels, 255 where there are no data; a cell without data is skipped."""
    under_way: deque[tuple[_Cell, npt.NDArray[np.bool_]]] = deque()

    def read(cell: _Cell) -> tuple[Input, npt.NDArray[np.bool_]] | None:
        if not scene.has_data(cell.labeled).any():
            return None
        rgb, valid = scene.read(cell.seen)
        valid = valid[_within(cell)]
        return ((rgb, None, _network_sizes(rgb, factor, options.ms_flip)), valid) if valid.any() else None

    def inputs() -> Generator[Input, None, None]:
        # One thread: a data set of rasterio is not for several.
        with closing(prefetch_in_threads(cells, read, threads=1, ahead=IMAGES_AHEAD)) as windows:
            pairs = zip(cells, windows, strict=True)
            for cell, read_ in Bar(pairs, "map", len(cells), unit="window", disable=None if progress else True):
                if read_:
                    under_way.append((cell, read_[1]))
                    yield read_[0]

    with closing(inputs()) as images, closing(label_each(network, images, options)) as results:
        for result in results:
            if isinstance(result, ImageError):
                raise result
            cell, valid = under_way.popleft()
            yield cell.labeled, np.where(valid, result.mask[_within(cell)], np.uint8(IGNORE_INDEX))


def _within(cell: _Cell) -> tuple[slice, slice]:
    """Return where in a window the cell is that it labels."""
    return tuple(  # type: ignore[return-value]
        slice(labeled.start - seen.start, labeled.stop - seen.start)
        for labeled, seen in zip(cell.labeled, cell.seen, strict=True)
    )


def _network_sizes(pixels: Pixels, factor: float, ms_flip: bool) -> list[Pixels]:
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    if (height, width) != pixels.shape[:2]:
        layers = [pixels] if pixels.dtype == np.uint8 else list(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        size, bilinear = (width, height), Image.Resampling.BILINEAR  # antialiased
        layers = [np.asarray(Image.fromarray(layer).resize(size, bilinear)) for layer in layers]
        pixels = layers[0] if pixels.dtype == np.uint8 else np.stack(layers, axis=2)
    return resized(pixels, (max(height, width), min(height, width)), ms_flip)


def _create(path: Path, scene: Scene, legend: Legend, facts: dict[str, str]) -> Any:  # noqa: ANN401 - of rasterio
    """Create the raster of labels, on the grid of the scene; what is not written has no data."""
    import rasterio

    raster = scene.raster
    target = rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=raster.width,
        height=raster.height,
        crs=raster.crs,
        transform=raster.transform,
        count=1,
        dtype="uint8",
        nodata=IGNORE_INDEX,
        tiled=True,
        blockxsize=_BLOCK,
        blockysize=_BLOCK,
        compress="deflate",
        zlevel=1,
        sparse_ok=True,
        bigtiff="if_safer",
    )
    target.write_colormap(1, dict(enumerate(legend.palette)) | {IGNORE_INDEX: WHITE})
    target.update_tags(**facts)
    target.update_tags(1, **{f"CLASS_{index}": name for index, name in enumerate(legend.classes)})
    return target


def _write_cog(labels: Path, path: Path) -> None:
    """Copy labels into a cloud-optimized GeoTIFF, with overviews of the most frequent class."""
    from rasterio._err import CPLE_BaseError  # which has no public name
    from rasterio.shutil import copy

    options = {"blocksize": _BLOCK, "compress": "deflate", "overview_resampling": "mode"}
    try:
        copy(labels, path, driver="COG", **options, sparse_ok=True, bigtiff="if_safer")
    except CPLE_BaseError as error:  # such as a full disk
        raise OSError(f"GDAL: {error}") from error


def _category_names(classes: Sequence[str]) -> bytes:
    """Return GDAL's auxiliary file with the names of the classes, for which GeoTIFF has no place."""
    names = "".join(f"<Category>{html.escape(name)}</Category>" for name in classes)
    band = f'<PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames></PAMRasterBand>'
    return f"<PAMDataset>{band}</PAMDataset>\n".encode()


def _areas_within(labels: Path, zones: Sequence[Polygon], areas: npt.NDArray[np.float64]) -> list[Areas]:
    import rasterio

    with rasterio.open(labels) as raster:
        return [areas_within(raster, zone.geometry, areas) for zone in zones]


def _hectares(areas: Areas, classes: Sequence[str]) -> dict[str, float]:
    found = dict.fromkeys(classes, 0.0)
    for name, area in zip(classes, areas[: len(classes)].tolist(), strict=True):  # names may repeat
        found[name] += area / 10_000
    return found
