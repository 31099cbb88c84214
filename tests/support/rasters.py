"""GeoTIFFs for tests of maps; importing this needs rasterio."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.transform import from_origin

UTM = "EPSG:32633"
CORNER = (500_000.0, 5_400_000.0)  # of the upper left pixel


def write(path: Path, values: npt.NDArray[Any], *, pixel: float = 0.5, **profile: Any) -> Path:
    """Write bands (height, width, bands), of square pixels in meters unless the profile has a transform."""
    height, width, count = values.shape
    profile = {"crs": UTM, "transform": from_origin(*CORNER, pixel, pixel), "dtype": values.dtype, **profile}
    with rasterio.open(path, "w", driver="GTiff", height=height, width=width, count=count, **profile) as raster:
        raster.write(np.moveaxis(values, 2, 0))
    return path
