"""A folder of labeled images in; its pairs, class names, colors and label rule, and everything wrong with it, out."""

from hrnet_zoo.datasets.dataset import (
    ADE20K,
    CITYSCAPES,
    DATASETS,
    ISAID,
    LOVEDA,
    PASCAL_CONTEXT,
    PASCAL_CONTEXT_59,
    POTSDAM,
    SCENES,
    VAIHINGEN,
    VOC12AUG,
    Dataset,
)

__all__ = [
    "ADE20K",
    "CITYSCAPES",
    "DATASETS",
    "ISAID",
    "LOVEDA",
    "PASCAL_CONTEXT",
    "PASCAL_CONTEXT_59",
    "POTSDAM",
    "SCENES",
    "VAIHINGEN",
    "VOC12AUG",
    "Dataset",
]
