"""Class frequencies -> class weights, so that rare classes count."""

from __future__ import annotations

import numpy as np

from hrnet_zoo.datasets.check import DataReport

LARGEST = 10.0  # of a weight before scaling; 1 / LARGEST is the smallest


def class_weights(report: DataReport) -> tuple[float, ...]:
    """Weigh classes by median frequency balancing, from what `check_data` counted.

    The frequency of a class is its share of the pixels of the images in which it occurs (taken as of the mean size),
    its weight the median of all frequencies divided by it: Eigen and Fergus 2015, "Predicting depth, surface normals
    and semantic labels", section 6.3.2. Weights are clipped to 0.1..10; a class that never occurs gets the median's.
    All are then scaled so that the mean over the labeled pixels is 1: the loss keeps its size, and so the learning
    rate its meaning.

    Args:
        report: of a folder whose classes have names, so that its counts are by index.

    Returns:
        A weight for each class, by index.

    """
    pixels = np.array([each.pixels for each in report.classes], np.float64)
    images = np.array([each.images for each in report.classes], np.float64)
    present = pixels > 0
    if not present.any():
        return (1.0,) * len(pixels)
    frequency = pixels[present] / (images[present] * report.pixels / report.pairs)
    weights = np.ones(len(pixels))
    weights[present] = (np.median(frequency) / frequency).clip(1 / LARGEST, LARGEST)
    weights *= pixels.sum() / (weights * pixels).sum()
    return tuple(weights.tolist())
