"""GeoTIFF -> 8-bit RGB windows, pixels with data, areas on the ground; GeoJSON -> polygons of its map (extra `geo`)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hrnet_zoo.datasets.dataset import RGB_BANDS, Dataset
from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.errors import ConfigError, DatasetError, ImageError
from hrnet_zoo.images.bands import Pixels

# Semi-major axis in meters and squared eccentricity of the ellipsoid of WGS 84 (EPSG 7030).
WGS84_A, WGS84_E2 = 6378137.0, 0.0066943799901413165
_WGS84 = "EPSG:4326"
_SAMPLES, _SAMPLE = 8, 64  # places along each side of a raster, and their size, that a message takes values from
_ROWS_PIXELS = 1 << 22  # of a polygon's box, that are counted together

Areas = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint8]


class Place(NamedTuple):
    """Rows and columns of a raster."""

    rows: slice
    columns: slice

    @property
    def window(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The same for rasterio."""
        return (self.rows.start, self.rows.stop), (self.columns.start, self.columns.stop)


class Scene:
    """A georeferenced GeoTIFF, open for reading: see `open_scene`.

    Attributes:
        raster: the data set of rasterio.
        bands: the numbers, from 1, of the bands that are the network's channels.
        value_range: the values that become 0 and 255; None for a network of other bands, which takes values as stored.
        areas: square meters of a pixel of each row, (height,) float64.

    """

    def __init__(
        self,
        source: Path,
        raster: Any,  # noqa: ANN401 - rasterio has no types
        bands: Sequence[int] | None,
        value_range: tuple[float, float] | None,
        dataset: Dataset,
    ) -> None:
        self._source, self.raster, self._dataset = source, raster, dataset
        if raster.crs is None or raster.transform.is_identity:
            lacks = "coordinate reference system" if raster.crs is None else "transform from pixels to coordinates"
            raise self.refusal(
                f"it has no {lacks}",
                "state it (gdal_edit.py -a_srs EPSG:... -a_ullr ...; for ground control points, gdalwarp), or label it "
                "as an image: --out with a folder, in Python model.predict",
            )
        self.bands = self._own_channels(bands) if dataset.own_bands else self._channels(bands, dataset.bands)
        self.value_range = self._range(value_range)
        self.areas = self._pixel_areas()

    def refusal(self, found: str, advice: str) -> ImageError:
        """Return the error that this file cannot be labeled."""
        asked, done = f"label the map {self._source}", "nothing was written"
        return ImageError(asked=asked, found=found, done=done, advice=advice, source=str(self._source))

    @property
    def ground_resolution(self) -> float:
        """Meters on the ground of a pixel's side, in the middle of the raster."""
        return float(np.sqrt(self.areas[len(self.areas) // 2]))

    def has_data(self, place: Place) -> npt.NDArray[np.bool_]:
        """Return which pixels (height, width) the nodata value, a mask or an alpha band leaves, in some band."""
        valid: npt.NDArray[np.bool_] = self._masks(place, sorted(set(self.bands))).any(axis=0)
        return valid

    def _masks(self, place: Place, bands: Sequence[int]) -> Any:  # noqa: ANN401 - of rasterio
        with _raster_errors(self._source, f"rows {place.rows.start}-{place.rows.stop}"):
            masks = self.raster.read_masks(bands, window=place.window)
        # GDAL calls the fourth of four 8-bit bands alpha unless told otherwise; one that the network takes is none.
        if any(self.raster.colorinterp[band - 1].name == "alpha" for band in bands):
            flags = (self.raster.mask_flag_enums[band - 1] for band in bands)
            masks[[any(flag.name == "alpha" for flag in each) for each in flags]] = 255
        return masks

    def read(self, place: Place) -> tuple[Pixels, npt.NDArray[np.bool_]]:
        """Return the colors (height, width, 3) uint8 RGB, 0-255, and whether each pixel has data (height, width).

        Pixels without data have the color that is stored for them; what is not a number is black. For a network of
        other bands the values are (height, width, bands) float32, and the mean of a band where it has no data.
        """
        bands = sorted(set(self.bands))
        valid = self.has_data(place)
        with _raster_errors(self._source, f"rows {place.rows.start}-{place.rows.stop}"):
            values = self.raster.read(bands, window=place.window)
        if self.value_range is None:
            order = [bands.index(band) for band in self.bands]
            with np.errstate(over="ignore"):  # float64 may be infinite as float32
                floats = values[order].astype(np.float32)
            finite, mean = np.isfinite(floats), np.array(self._dataset.mean, np.float32)
            floats = np.where(finite & (self._masks(place, bands)[order] > 0), floats, mean[:, None, None])
            return np.ascontiguousarray(floats.transpose(1, 2, 0)), valid & finite.all(axis=0)
        low, high = self.value_range
        if values.dtype != np.uint8 or (low, high) != (0, 255):
            finite = np.isfinite(values).all(axis=0)
            scaled = np.floor((values.astype(np.float64) - low) * (255 / (high - low)) + 0.5)
            values, valid = np.nan_to_num(scaled, nan=0).clip(0, 255).astype(np.uint8), valid & finite
        rgb = values[[bands.index(band) for band in self.bands]]
        return np.ascontiguousarray(rgb.transpose(1, 2, 0)), valid

    def _channels(self, bands: Sequence[int] | None, colors: Sequence[str]) -> tuple[int, ...]:
        count, names = self.raster.count, [each.name for each in self.raster.colorinterp]
        if bands is not None and len(bands) in (1, 3) and all(1 <= band <= count for band in bands):
            return tuple(bands) * (3 // len(bands))
        if bands is None and tuple(colors) == RGB_BANDS:
            if set(colors) <= set(names):
                return tuple(names.index(color) + 1 for color in colors)
            if names[0] == "gray" and names[1:] in ([], ["alpha"]):
                return (1, 1, 1)
            if count == 3:
                return (1, 2, 3)
            if "palette" in names:
                raise self.refusal("colors of a palette", "make it RGB: gdal_translate -expand rgb")
        raise self.refusal(
            f"{count} bands, called {', '.join(names)}" + f"; bands={bands} was asked for" * (bands is not None),
            f"say which three, from 1 on, are {', '.join(colors)}, or which one is gray: --bands 4,3,2, in Python "
            "bands=(4, 3, 2)",
        )

    def _own_channels(self, bands: Sequence[int] | None) -> tuple[int, ...]:
        """Return the bands for a network of other bands: those that the file describes so, or as many as it has."""
        count, wanted = self.raster.count, self._dataset.own_bands
        described = [(name or "").casefold() for name in self.raster.descriptions]
        if bands is None and all(name.casefold() in described for name in wanted):
            return tuple(described.index(name.casefold()) + 1 for name in wanted)
        found = tuple(range(1, count + 1)) if bands is None else tuple(bands)
        if len(found) == len(wanted) and all(1 <= band <= count for band in found):
            return found
        raise self.refusal(
            f"{count} bands, described as {', '.join(name or '-' for name in described)}"
            + f"; bands={bands} was asked for" * (bands is not None),
            f"say which {len(wanted)}, from 1 on, are {', '.join(wanted)}: --bands, in Python bands=",
        )

    def _range(self, value_range: tuple[float, float] | None) -> tuple[float, float] | None:
        kinds = {np.dtype(self.raster.dtypes[band - 1]) for band in self.bands}
        shown = f"values of type {', '.join(sorted(map(str, kinds)))}"
        if any(kind.kind not in "uif" for kind in kinds):
            raise self.refusal(shown, "make them real numbers")
        if self._dataset.own_bands:
            if value_range is not None:
                raise ConfigError(
                    asked=f"scale values from value_range={value_range}",
                    found=f"the network takes the values of {', '.join(self._dataset.bands)} as they are stored",
                    done="nothing was written",
                    advice="leave value_range (--range) out",
                )
            return None
        if value_range is not None:
            low, high = value_range
            if not (np.isfinite([low, high]).all() and low < high):
                raise ConfigError(
                    asked=f"scale values from value_range={value_range}",
                    found="not two numbers of which the first is smaller",
                    done="nothing was written",
                    advice="give the values of black and of white, such as 0,3000",
                )
            return float(low), float(high)
        bits = self.raster.tags(self.bands[0], ns="IMAGE_STRUCTURE").get("NBITS")
        if kinds == {np.dtype(np.uint8)}:
            return 0.0, 255.0
        if kinds == {np.dtype(np.uint16)} and bits:
            return 0.0, 2.0 ** int(bits) - 1
        sample = self._sample()
        low, high = np.percentile(sample, (2, 98)).tolist() if sample.size else (0, 3000)
        known = f"; in a sample 2 % are below {low:g}, 98 % below {high:g}" if sample.size else ""
        raise self.refusal(
            f"{shown}, and no statement which of them is white{known}",
            f"say which values are black and white: --range {low:g},{high:g}, or those of the sensor; in Python "
            f"value_range=({low:g}, {high:g})",
        )

    def _sample(self) -> npt.NDArray[Any]:
        """Return some values, from all over the raster."""
        bands, found = sorted(set(self.bands)), []
        rows, columns = (
            np.unique(np.linspace(0, max(0, side - _SAMPLE), _SAMPLES, dtype=int)).tolist()
            for side in (self.raster.height, self.raster.width)
        )
        with _raster_errors(self._source, "a sample"):
            for row, column in product(rows, columns):
                window = (row, row + _SAMPLE), (column, column + _SAMPLE)
                values = self.raster.read(bands, window=window, masked=True).compressed()
                found.append(values[np.isfinite(values)])
        return np.concatenate(found)

    def _pixel_areas(self) -> Areas:
        """Return the square meters of a pixel of each row.

        In a projection they are those of its plane. In degrees, and in a Mercator projection, whose scale grows towards
        the poles, they are those of the ellipsoid: Snyder, Map projections, 1987, equation 3-12.
        """
        from rasterio.warp import transform

        raster, crs = self.raster, self.raster.crs
        a, b, c, d, e, f = tuple(raster.transform)[:6]
        if not (crs.is_geographic or re.search(r'PROJECTION\["(Mercator|Popular_Visualisation)', crs.to_wkt())):
            meters = crs.linear_units_factor[1]
            return np.full(raster.height, abs(a * e - b * d) * meters**2)
        if b or d:
            raise self.refusal("rows that do not run from west to east", "make it north up: gdalwarp")
        edges = np.arange(raster.height + 1) * e + f
        _, latitudes = transform(crs, _WGS84, np.full(len(edges), c), edges)
        middle = f + e * raster.height / 2
        longitudes, _ = transform(crs, _WGS84, [c, c + a * raster.width / 2], [middle, middle])
        sine, root = np.sin(np.radians(latitudes)), np.sqrt(WGS84_E2)
        q = (1 - WGS84_E2) * (sine / (1 - WGS84_E2 * sine**2) + np.arctanh(root * sine) / root)
        width = np.radians(longitudes[1] - longitudes[0]) / (raster.width / 2)
        areas: Areas = np.abs(np.diff(q)) * abs(width) * WGS84_A**2 / 2
        return areas


@contextmanager
def open_scene(
    source: str | os.PathLike[str],
    bands: Sequence[int] | None,
    value_range: tuple[float, float] | None,
    dataset: Dataset,
) -> Iterator[Scene]:
    """Open a GeoTIFF, and yield it; `dataset` says what the network's channels show.

    Raises:
        ConfigError: rasterio is missing, or `value_range` is no range.
        ImageError: no GeoTIFF, damaged, without CRS or transform, without such bands, or of an unknown range.

    """
    try:
        import rasterio
    except ImportError as error:
        raise ConfigError(
            asked=f"label the map {source}",
            found=f"rasterio, which reads and writes GeoTIFF, cannot be imported: {error}",
            done="nothing was written",
            advice="pip install '.[geo]' in the checkout of hrnet-zoo",
        ) from error
    path = Path(source)
    with _raster_errors(path, "its header"):
        if not path.is_file():
            raise FileNotFoundError("there is no such file")
        raster = rasterio.open(path, driver="GTiff")  # no other format, which may refer to other files and addresses
    with raster:
        yield Scene(path, raster, bands, value_range, dataset)


@contextmanager
def _raster_errors(source: Path, where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # rasterio's are such
        raise ImageError(
            asked=f"read {where} of {source}",
            found=f"{error}",
            done="nothing was written",
            advice="name a whole GeoTIFF: fetch or export it anew if it is damaged",
            source=str(source),
        ) from error


class Polygon(NamedTuple):
    """A polygon of a GeoJSON file."""

    name: str  # its id, or else its property "id" or "name", or else its number from 1
    geometry: dict[str, Any]  # in the coordinates of the raster


def read_polygons(path: Path, crs: Any) -> list[Polygon]:  # noqa: ANN401 - of rasterio, which has no types
    """Return the polygons of a GeoJSON file in another CRS.

    Their own CRS is the one that the file's member "crs" names. Without it they are in WGS 84, as the standard says
    (RFC 7946), unless some coordinate is beyond 180 degrees of longitude or 90 of latitude: then they are in `crs`.

    Raises:
        DatasetError: no GeoJSON, or something else than polygons.

    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError
    from rasterio.features import bounds, is_valid_geom
    from rasterio.warp import transform_geom

    try:
        data = json.loads(path.read_bytes())
        features = data["features"] if data.get("type") == "FeatureCollection" else [data]
        geometries = [each["geometry"] if each["type"] == "Feature" else each for each in features]
        for number, geometry in enumerate(geometries, start=1):
            if geometry["type"] not in ("Polygon", "MultiPolygon") or not is_valid_geom(geometry):
                raise ValueError(f"feature {number} is a {geometry['type']}, no valid Polygon or MultiPolygon")
        left, bottom, right, top = (list(side) for side in zip(*map(bounds, geometries), strict=True))
        own = _WGS84 if min(left) >= -180 and max(right) <= 180 and min(bottom) >= -90 and max(top) <= 90 else crs
        if data.get("crs"):
            own = CRS.from_user_input(data["crs"]["properties"]["name"])
        moved = transform_geom(own, crs, geometries)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, CRSError) as error:
        raise DatasetError(
            asked=f"read polygons: {path}",
            found=f"no GeoJSON file of polygons: {type(error).__name__}: {error}",
            done="nothing was written",
            advice="give a FeatureCollection of Polygon and MultiPolygon, in WGS 84 or in the CRS of the raster",
            path=path,
        ) from error
    pairs = zip(features, moved, strict=True)
    return [Polygon(_name(feature, number), each) for number, (feature, each) in enumerate(pairs, 1)]


def _name(feature: dict[str, Any], number: int) -> str:
    properties = feature.get("properties") or {}
    known = (feature.get("id"), properties.get("id"), properties.get("name"), number)
    return str(next(each for each in known if each is not None))


def areas_within(labels: Any, geometry: dict[str, Any], areas: Areas) -> Areas:  # noqa: ANN401 - as above
    """Return the square meters (256,) of each label, of pixels whose centers lie in a polygon.

    Args:
        labels: data set of rasterio, of one uint8 band.
        geometry: GeoJSON, in its CRS.
        areas: square meters of a pixel of each row.

    """
    from rasterio.errors import WindowError
    from rasterio.features import geometry_mask, geometry_window
    from rasterio.windows import Window

    total = np.zeros(256)
    try:
        (top, bottom), (left, right) = geometry_window(labels, [geometry]).toranges()
    except WindowError:  # the polygon lies outside
        return total
    step = max(1, _ROWS_PIXELS // (right - left))
    for start in range(top, bottom, step):
        place = Place(slice(start, min(start + step, bottom)), slice(left, right))
        values = labels.read(1, window=place.window)
        transform = labels.window_transform(Window.from_slices(*place))
        outside = geometry_mask([geometry], values.shape, transform)
        total += areas_of(np.where(outside, np.uint8(IGNORE_INDEX), values), areas[place.rows])
    return total


def areas_of(labels: Labels, areas: Areas) -> Areas:
    """Return the square meters (256,) of each label (height, width); those of a pixel of each row are given."""
    rows = np.arange(len(labels))[:, None] * 256
    counts = np.bincount((rows + labels).ravel(), minlength=256 * len(labels)).reshape(len(labels), 256)
    found: Areas = areas @ counts
    return found
