"""The colors of a confidence: even steps, for color-blind readers, too."""

import numpy as np
import numpy.typing as npt

from hrnet_zoo.inference.legend import CONFIDENCE_COLORS

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]


def lab(linear: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return CIELAB colors (n, 3), white point D65, of linear RGB: another space than that of the ramp."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt((linear @ to_xyz.T / to_xyz.sum(axis=1)).clip(0.008856)).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def test_confidence_colors_are_even_steps_for_all_readers() -> None:
    levels = np.array(CONFIDENCE_COLORS) / 255
    assert len(levels) == 256
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    for seen in (np.eye(3), np.array(DEUTERANOPIA), np.array(PROTANOPIA)):
        colors = lab((linear @ seen.T).clip(0, 1))
        assert (np.diff(colors[::4, 0]) > 0).all()  # lightness rises
        steps = np.linalg.norm(np.diff(colors[::16], axis=0), axis=1)
        assert steps.min() > 3
        assert steps.max() < 2.2 * steps.min(), steps
