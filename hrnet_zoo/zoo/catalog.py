"""Model name -> catalog row: every HRNet checkpoint that mmsegmentation published, and the bundled demo.

The backbones that its trainings start from are here, too.

Figures: https://github.com/open-mmlab/mmsegmentation/tree/main/configs, in hrnet and ocrnet. First come the 23 rows of
the FCN table as first published in 2020, then the 39 further ones. Where upstream replaced a file, both are here. The
plain name is that of the file in the user's table, or else of the newest; the other one says in its name what it is:
"retrained" (August 2021), or the year of the file.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hrnet_zoo.datasets import (
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
from hrnet_zoo.datasets.dataset import Color
from hrnet_zoo.errors import ConfigError, UnknownModelError

PUBLISHED_FOLDER = "https://download.openmmlab.com/mmsegmentation/v0.5"
BACKBONES_FOLDER = "https://download.openmmlab.com/pretrain/third_party"

LOCAL, HUB = "local-dir:", "hf-hub:"  # prefixes of saved models' names

METHODS = {"FCN": "hrnet", "OCRNet": "ocrnet"}  # heads, as in the published table; folders of their files
RETRAINED = "retrained"  # in August 2021, by the configuration of a row of the table of 2020
OCR_CHANNELS = 512  # that the 3x3 convolution of OCRNet's second head makes, and that enter its classifier
OCR_PARAMETERS = 1_185_280  # of this head, without these two layers

# name in the published table; parameters with the FCN head but its classifier; channels that enter this classifier
ARCHS = {
    "hr18s": ("HRNetV2p-W18-Small", 3_934_160, 270),
    "hr18": ("HRNetV2p-W18", 9_635_700, 270),
    "hr32": ("HRNetV2p-W32", 29_536_896, 480),
    "hr40": ("HRNetV2p-W40", 45_882_416, 600),
    "hr48": ("HRNetV2p-W48", 65_844_960, 720),
}


@dataclass(frozen=True)
class ImageNetBackbone:
    """The published file of an ImageNet classifier, with whose backbone trainings start."""

    name: str  # that of the network: "hr18"
    file_name: str

    @property
    def checkpoint_url(self) -> str:
        """Published address of the file."""
        return f"{BACKBONES_FOLDER}/{self.file_name}"

    @property
    def stated_sha256(self) -> str:
        """First eight hex digits of the file's SHA-256, from its name."""
        return self.file_name.removesuffix(".pth").rpartition("-")[2]


IMAGENET = {
    arch: ImageNetBackbone(arch, f"hrnetv2_{file}.pth")  # `hub/openmmlab.json` of mmengine
    for arch, file in (
        *(("hr18s", "w18_small-b5a04e21"), ("hr18", "w18-00eb2006"), ("hr32", "w32-dc9eeb4f")),
        *(("hr40", "w40-ed0b031c"), ("hr48", "w48-d2186c55")),
    )
}


@dataclass(frozen=True)
class ModelInfo:
    """One published checkpoint."""

    arch: str  # "hr18s", "hr18" or "hr48"
    dataset: Dataset  # that it was trained on, with everything that follows from it
    thousand_iterations: int  # of the training schedule
    train_memory_gb: float | None  # per GPU, as published; None where the table has a dash
    inference_fps: float | None  # images per second on a V100, fp32, batch 1, as published; None where it has a dash
    miou: float  # mean intersection over union on the validation set, percent, as published
    miou_ms_flip: float  # the same with six scales and flips
    published: str  # date and time in the file's name
    sha256_prefix: str  # first eight hex digits of the file's SHA-256, from its name
    method: str = "FCN"  # the head, as in the published table: "FCN" or "OCRNet"
    edition: str = ""  # the end of the name, where another file of the same training has the plain name
    sha256: str | None = None  # the whole digest; None until someone who has the file has stated it

    @property
    def name(self) -> str:
        """Canonical name."""
        words = (self.method.lower(), self.arch, self.dataset.key, f"{self.thousand_iterations}k", self.edition)
        return "_".join(filter(None, words))

    @property
    def backbone(self) -> str:
        """Name of the network in the published table."""
        return ARCHS[self.arch][0]

    @property
    def dataset_title(self) -> str:
        """Name of the dataset in the published table."""
        return self.dataset.title

    @property
    def crop_size(self) -> str:
        """Training crop, height x width in pixels."""
        return "{}x{}".format(*self.dataset.crop)

    @property
    def lr_schedule_iterations(self) -> int:
        """Iterations of the training schedule."""
        return 1000 * self.thousand_iterations

    @property
    def config(self) -> str:
        """Name of the training configuration, the stem of the files' names: since 2023, that of mmsegmentation 1.x."""
        return self._configs[self.published >= "2023"]

    @property
    def _configs(self) -> tuple[str, ...]:
        """Name of the training configuration in mmsegmentation 0.x and in 1.x."""
        start = f"{self.method.lower()}_{self.arch}"
        batch = "4x4_" if self.dataset.key in ("vaihingen", "isaid") else ""
        key, k_iterations = self.dataset.key, f"{self.thousand_iterations}k"
        return (
            f"{start}_{batch}{self.crop_size}_{k_iterations}_{key}",
            f"{start}_4xb{self.dataset.batch_per_gpu}-{k_iterations}_{key.replace('_', '-')}-{self.crop_size}",
        )

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names of this row: configuration in mmsegmentation 0.x and 1.x, file name, address.

        Of two files by one configuration, each has the name of the configuration that its own name has; retrained ones
        have none, since those of 2020 have it.
        """
        configs = self._configs
        if self.edition or self.published >= "2023":
            configs = (self.config,) * (self.edition != RETRAINED)
        return *configs, self.file_name, self.checkpoint_url

    @property
    def file_name(self) -> str:
        """Name of the published file."""
        return f"{self.config}_{self.published}-{self.sha256_prefix}.pth"

    @property
    def checkpoint_url(self) -> str:
        """Published address of the checkpoint."""
        return f"{self._folder}/{self.file_name}"

    @property
    def _folder(self) -> str:
        return f"{PUBLISHED_FOLDER}/{METHODS[self.method]}/{self.config}"

    @property
    def stated_sha256(self) -> str:
        """The file's SHA-256, as far as it is known: the whole digest, or the beginning in the file's name."""
        return self.sha256 or self.sha256_prefix

    @property
    def log_url(self) -> str | None:
        """Published address of the training log."""
        # The logs of Pascal Context are named with a hyphen before the date, and those of mmengine without "log".
        separator = "-" if self.dataset.key.startswith("pascal_context") else "_"
        suffix = ".json" if self.published >= "2023" else ".log.json"
        return f"{self._folder}/{self.config}{separator}{self.published}{suffix}"

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index."""
        return self.dataset.classes

    @property
    def palette(self) -> tuple[Color, ...]:
        """Colors (RGB, 0 to 255) by index."""
        return self.dataset.palette

    @property
    def ground_resolution(self) -> float | None:
        """Meters per pixel of the aerial images that it knows; None: photographs, or images of many resolutions."""
        return self.dataset.meters_per_pixel

    @property
    def bands(self) -> tuple[str, ...]:
        """What the three channels of an image show: red, green and blue, but for Vaihingen."""
        return self.dataset.bands

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        _, body, channels = ARCHS[self.arch]
        fcn = body + (channels + 1) * self.num_classes
        if self.method == "FCN":
            return fcn
        return fcn + OCR_PARAMETERS + 9 * channels * OCR_CHANNELS + (OCR_CHANNELS + 1) * self.num_classes

    @property
    def license_note(self) -> str:
        """What is known of the licenses; not legal advice."""
        return (
            "Code: Apache-2.0. Weights: published by mmsegmentation under Apache-2.0. "
            f"Training data: {self.dataset.data_license}. Not legal advice."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the published table's columns, then what else distinguishes rows, ready for JSON."""
        names = (
            *("crop_size", "lr_schedule_iterations", "train_memory_gb", "inference_fps", "miou"),
            *("miou_ms_flip", "checkpoint_url", "log_url", "arch", "sha256_prefix", "sha256", "num_classes"),
            *("parameters", "ground_resolution", "bands", "license_note"),
        )
        head = {"name": self.name, "method": self.method, "backbone": self.backbone, "dataset": self.dataset_title}
        return head | {name: getattr(self, name) for name in names}


PublishedFile = ModelInfo | ImageNetBackbone  # both have name, file_name, checkpoint_url and stated_sha256

TABLE_ROWS = 23  # so many of these are the FCN table as first published

# fmt: off
_ROWS = (
    # arch     dataset        k iter  mem   fps    mIoU   ms+flip  published          sha256[:8]
    ModelInfo("hr18s", CITYSCAPES,      40, 1.7,  23.74, 73.86, 75.91, "20200601_014216", "93db27d0"),
    ModelInfo("hr18",  CITYSCAPES,      40, 2.9,  12.97, 77.19, 78.92, "20200601_014216", "f196fb4e"),
    ModelInfo("hr48",  CITYSCAPES,      40, 6.2,   6.42, 78.48, 79.69, "20200601_014240", "a989b146"),
    ModelInfo("hr18s", CITYSCAPES,      80, None,  None, 75.31, 77.48, "20200601_202700", "1462b75d"),
    ModelInfo("hr18",  CITYSCAPES,      80, None,  None, 78.65, 80.35, "20200601_223255", "4e7b345e"),
    ModelInfo("hr48",  CITYSCAPES,      80, None,  None, 79.93, 80.72, "20200601_202606", "58ea95d6"),
    ModelInfo("hr18s", CITYSCAPES,     160, None,  None, 76.31, 78.31, "20200602_190901", "4a0797ea"),
    ModelInfo("hr18",  CITYSCAPES,     160, None,  None, 78.80, 80.74, "20200602_190822", "221e4a4f"),
    ModelInfo("hr48",  CITYSCAPES,     160, None,  None, 80.65, 81.92, "20200602_190946", "59b7973e"),
    ModelInfo("hr18s", ADE20K,          80, 3.8,  38.66, 31.38, 32.45, "20200614_144345", "77fc814a"),
    ModelInfo("hr18",  ADE20K,          80, 4.9,  22.57, 35.51, 36.80, "20200614_185145", "66f20cb7"),
    ModelInfo("hr48",  ADE20K,          80, 8.2,  21.23, 41.90, 43.27, "20200614_193946", "7ba5258d"),
    ModelInfo("hr18s", ADE20K,         160, None,  None, 33.00, 34.55, "20200614_214413", "870f65ac"),
    ModelInfo("hr18",  ADE20K,         160, None,  None, 36.79, 38.58, "20200614_214426", "ca961836"),
    ModelInfo("hr48",  ADE20K,         160, None,  None, 42.02, 43.86, "20200614_214407", "a52fc02c"),
    ModelInfo("hr18s", VOC12AUG,        20, 1.8,  43.36, 65.20, 68.55, "20200617_224503", "56e36088"),
    ModelInfo("hr18",  VOC12AUG,        20, 2.9,  23.48, 72.30, 74.71, "20200617_224503", "488d45f7"),
    ModelInfo("hr48",  VOC12AUG,        20, 6.2,  22.05, 75.87, 78.58, "20200617_224419", "89de05cd"),
    ModelInfo("hr18s", VOC12AUG,        40, None,  None, 66.61, 70.00, "20200614_000648", "4f8d6e7f"),
    ModelInfo("hr18",  VOC12AUG,        40, None,  None, 72.90, 75.59, "20200613_224401", "1b4b76cd"),
    ModelInfo("hr48",  VOC12AUG,        40, None,  None, 76.24, 78.49, "20200613_222111", "1b0f18bc"),
    ModelInfo("hr48",  PASCAL_CONTEXT,  40, 6.1,   8.86, 45.14, 47.42, "20200911_164852", "667d00b0"),
    ModelInfo("hr48",  PASCAL_CONTEXT,  80, None,  None, 45.84, 47.84, "20200911_155322", "847a6711"),
    # The first TABLE_ROWS end here. What the FCN table has today besides
    ModelInfo("hr18",  ADE20K,          80, 4.9,  22.57, 36.27, 37.28, "20210827_114910", "6c9382c0", "FCN", RETRAINED),
    ModelInfo("hr18s", ADE20K,         160, None,  None, 33.07, 34.56, "20210829_174739", "f1e7c2e7", "FCN", RETRAINED),
    ModelInfo("hr18s", VOC12AUG,        20, 1.8,  43.36, 65.50, 68.89, "20210829_174910", "0aceadb4", "FCN", RETRAINED),
    ModelInfo("hr48",  PASCAL_CONTEXT_59, 40, None,  None, 50.33, 52.83, "20210410_122738", "b808b8b2"),
    ModelInfo("hr48",  PASCAL_CONTEXT_59, 80, None,  None, 51.12, 53.56, "20210411_003240", "3ae7081e"),
    ModelInfo("hr18s", LOVEDA,          80, 1.59, 24.87, 49.28, 49.42, "20211210_203228", "60a86a7a"),
    ModelInfo("hr18",  LOVEDA,          80, 2.76, 12.92, 50.81, 50.95, "20211210_203952", "93d9c3b3"),
    ModelInfo("hr48",  LOVEDA,          80, 6.2,   9.61, 51.42, 51.64, "20211211_044756", "67072f55"),
    ModelInfo("hr18s", POTSDAM,         80, 1.58, 36.00, 77.64, 78.80, "20211218_205517", "ba32af63"),
    ModelInfo("hr18",  POTSDAM,         80, 2.76, 19.25, 78.26, 79.24, "20211218_205517", "5d0387ad"),
    ModelInfo("hr48",  POTSDAM,         80, 6.2,  16.42, 78.39, 79.34, "20211219_020601", "97434c78"),
    ModelInfo("hr18s", VAIHINGEN,       80, 1.58, 38.11, 71.81, 73.10, "20211231_230909", "b23aae02"),
    ModelInfo("hr18",  VAIHINGEN,       80, 2.76, 19.55, 72.57, 74.09, "20211231_231216", "2ec3ae8a"),
    ModelInfo("hr48",  VAIHINGEN,       80, 6.2,  17.25, 72.50, 73.52, "20211231_231244", "7133cb22"),
    ModelInfo("hr18s", ISAID,           80, 4.95, 13.84, 62.30, 62.97, "20220118_001603", "3cc0769b"),
    ModelInfo("hr18",  ISAID,           80, 8.3,   7.71, 65.06, 65.60, "20220110_182230", "49bf752e"),
    ModelInfo("hr48",  ISAID,           80, 16.89, 7.34, 67.80, 68.53, "20220114_174643", "547fc420"),
    # The OCRNet table
    ModelInfo("hr18s", CITYSCAPES,      40, 3.5,  10.45, 76.61, 78.01, "20230227_145026", "6c052a14", "OCRNet"),
    ModelInfo("hr18s", CITYSCAPES,      40, 3.5,  10.45, 74.30, 75.95, "20200601_033304", "fa2436c2", "OCRNet", "2020"),
    ModelInfo("hr18",  CITYSCAPES,      40, 4.7,   7.50, 77.72, 79.49, "20200601_033320", "401c5bdd", "OCRNet"),
    ModelInfo("hr48",  CITYSCAPES,      40, 8.0,   4.22, 80.58, 81.79, "20200601_033336", "55b32491", "OCRNet"),
    ModelInfo("hr18s", CITYSCAPES,      80, None,  None, 77.16, 78.66, "20200601_222735", "55979e63", "OCRNet"),
    ModelInfo("hr18",  CITYSCAPES,      80, None,  None, 78.57, 80.46, "20200614_230521", "c2e1dd4a", "OCRNet"),
    ModelInfo("hr48",  CITYSCAPES,      80, None,  None, 80.70, 81.87, "20200601_222752", "9076bcdf", "OCRNet"),
    ModelInfo("hr18s", CITYSCAPES,     160, None,  None, 78.45, 79.97, "20200602_191005", "f4a7af28", "OCRNet"),
    ModelInfo("hr18",  CITYSCAPES,     160, None,  None, 79.47, 80.91, "20200602_191001", "b9172d0c", "OCRNet"),
    ModelInfo("hr48",  CITYSCAPES,     160, None,  None, 81.35, 82.70, "20200602_191037", "dfbf1b0c", "OCRNet"),
    ModelInfo("hr18s", ADE20K,          80, 6.7,  28.98, 35.06, 35.80, "20200615_055600", "e80b62af", "OCRNet"),
    ModelInfo("hr18",  ADE20K,          80, 7.9,  18.93, 37.79, 39.16, "20200615_053157", "d173d83b", "OCRNet"),
    ModelInfo("hr48",  ADE20K,          80, 11.2, 16.99, 43.00, 44.30, "20200615_021518", "d168c2d1", "OCRNet"),
    ModelInfo("hr18s", ADE20K,         160, None,  None, 37.19, 38.40, "20200615_184505", "8e913058", "OCRNet"),
    ModelInfo("hr18",  ADE20K,         160, None,  None, 39.32, 40.80, "20200615_200940", "d8fcd9d1", "OCRNet"),
    ModelInfo("hr48",  ADE20K,         160, None,  None, 43.25, 44.88, "20200615_184705", "a073726d", "OCRNet"),
    ModelInfo("hr18s", VOC12AUG,        20, 3.5,  31.55, 71.70, 73.84, "20200617_233913", "02b04fcb", "OCRNet"),
    ModelInfo("hr18",  VOC12AUG,        20, 4.7,  19.91, 74.75, 77.11, "20200617_233932", "8954cbb7", "OCRNet"),
    ModelInfo("hr48",  VOC12AUG,        20, 8.1,  17.83, 77.72, 79.87, "20200617_233932", "9e82080a", "OCRNet"),
    ModelInfo("hr18s", VOC12AUG,        40, None,  None, 72.76, 74.60, "20200614_002025", "42b587ac", "OCRNet"),
    ModelInfo("hr18",  VOC12AUG,        40, None,  None, 74.98, 77.40, "20200614_015958", "714302be", "OCRNet"),
    ModelInfo("hr48",  VOC12AUG,        40, None,  None, 77.14, 79.71, "20200614_015958", "255bc5ce", "OCRNet"),
)
# fmt: on
PUBLISHED_ARCHS = list(dict.fromkeys(row.arch for row in _ROWS))


class BundledModel(ModelInfo):
    """The demo checkpoint inside this package; its figures are on generated scenes, and ours."""

    name = "demo"
    lr_schedule_iterations = 4800  # about, over four runs
    log_url = None
    license_note = "Code, weights and generated training data: Apache-2.0."

    @property
    def file_name(self) -> str:
        """Name of the file in the package."""
        return f"fcn_hr18s_demo-{self.sha256_prefix}.pth"

    @property
    def checkpoint_url(self) -> str:
        """Address of the file in the package."""
        return (Path(__file__).parents[1] / "demo" / self.file_name).as_uri()

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names: the file's."""
        return (self.file_name,)


DEMO_KNOWS = "generated street scenes, and nothing else: for photographs choose one of `hrnet-zoo list`"
DEMO = BundledModel(
    arch="hr18s",
    dataset=SCENES,
    thousand_iterations=5,
    train_memory_gb=None,
    inference_fps=None,
    miou=80.76,
    miou_ms_flip=82.45,
    published="2026-11-23",
    sha256_prefix="afdf456c",
    sha256="afdf456cb9623d7d265b3d27a51f3532aa88187a546940788f90ce0347ac2996",
)


def list_models(
    pattern: str = "*", *, method: str | None = None, dataset: str | None = None, arch: str | None = None
) -> list[str]:
    """Return the names of the published checkpoints: those of the FCN table of 2020 in its order, then all others.

    Args:
        pattern: `fnmatch` pattern on the name, such as "*_160k"; without `*`, `?` and `[`, a substring: "cityscapes".
        method: keep one head: "FCN" or "OCRNet".
        dataset: keep one dataset: "cityscapes", "ade20k", "voc12aug", "pascal_context", "pascal_context_59", "loveda",
            "potsdam", "vaihingen" or "isaid".
        arch: keep one network: "hr18s", "hr18" or "hr48".

    Raises:
        ConfigError: there is no such head, dataset or network.

    """
    for what, value, choices in (
        ("method", method, METHODS),
        ("dataset", dataset, DATASETS),
        ("arch", arch, PUBLISHED_ARCHS),
    ):
        if value is not None and value not in choices:
            raise ConfigError(
                asked=f"list the models with {what}={value!r}",
                found=f"{what} is one of {', '.join(choices)}",
                done="nothing was listed",
                advice=f"use one of these, or leave {what} out",
            )
    pattern = pattern.lower()
    if not set(pattern) & set("*?["):
        pattern = f"*{pattern}*"
    return [
        row.name
        for row in _ROWS
        if fnmatch.fnmatchcase(row.name, pattern)
        and method in (None, row.method)
        and dataset in (None, row.dataset.key)
        and arch in (None, row.arch)
    ]


def model_info(name: str) -> ModelInfo:
    """Return the catalog row of a name.

    Args:
        name: canonical name; or a configuration name of mmsegmentation 0.x or 1.x, the checkpoint's file name or its
            address on any host; or "demo".

    Raises:
        UnknownModelError: no row has this name; the error holds the nearest ones.

    """
    rows = _rows_by_name()
    name = str(name)
    # Only the file name of an address counts: mirrors have the same files.
    row = rows.get(name) or rows.get(name.rpartition("/")[2] if "://" in name else name)
    if row is None:
        names = _nearest(name)
        shown = name if len(name) <= 100 else f"{name[:100]}..."
        raise UnknownModelError(
            asked=f"the model {shown!r}",
            found="no published model has this name" + (f"; the nearest are {', '.join(names)}" if names else ""),
            done="nothing was downloaded or changed",
            advice=_advice(shown),
            name=name,
            nearest=names,
        )
    return row


def published_file(name: str) -> PublishedFile:
    """Return the ImageNet backbone of a bare network's name ("hr32"), or else as `model_info`."""
    return IMAGENET.get(name) or model_info(name)


def _nearest(name: str) -> tuple[str, ...]:
    """Suggest rows with similar names, in the spelling of other libraries too: HRNetV2-W48, hrnet_w18_small."""
    text = name[:200].lower()
    is_ocr = "ocr" in text
    # Whoever names neither OCRNet nor one of the further datasets has a row of the first table in mind.
    near = [row for place, row in enumerate(_ROWS) if place < TABLE_ROWS or is_ocr or row.dataset.key in text]
    near = [row for row in near if (row.method == "OCRNet") == is_ocr]
    bare = _without_head(text)
    if bare in ARCHS:  # a network without a dataset: of each dataset, the longest training
        return tuple({row.dataset.key: row.name for row in near if row.arch == bare}.values())
    text, names = ("ocrnet_" if is_ocr else "fcn_") + bare, [*(row.name for row in near), DEMO.name]
    return () if is_saved(name) else tuple(difflib.get_close_matches(text, names, n=3, cutoff=0.5))


def _without_head(text: str) -> str:
    """Return our spelling of a network's name in small letters, without the head's: hrnet_w48_ocr and w48 are hr48."""
    text = re.sub(r"(hrnet\w*?[-_]?|^)w(?=\d)", "hr", text)
    return re.sub(r"^(fcn|ocr(net)?)|[-_]?ocr(net)?$", "", text).lstrip("-_").replace("_small", "s")


def _advice(name: str) -> str:
    """Say what to do with a name that may be that of a file, a model folder or a repository."""
    if is_saved(name):
        return f"of a saved model, `hrnet-zoo info {name}` tells everything"
    if name.lower().endswith((".pth", ".pt", ".bin", ".ckpt", ".safetensors")):
        return f"weights go into a network that has a name: create_model(NAME, checkpoint={name!r}), or --checkpoint"
    if os.path.isfile(name):  # noqa: PTH113 - never raises, as Path.is_file does
        return f"the model comes first: hrnet-zoo predict demo {name}"
    if match := re.fullmatch(r"(?:https://huggingface\.co/|hf://|hf_hub:)?([\w.-]+/[\w.-]+)", name):
        return f"a repository on the Hub is named {HUB}{match[1]}, and a folder has to be there"
    names = "`hrnet-zoo list` and hrnet_zoo.list_models() have all names"
    if (arch := _without_head(name.lower())) in ARCHS:
        names += (
            f"; to start from ImageNet: hrnet-zoo finetune {arch}, hrnet_zoo.create_backbone({arch!r}), "
            f"or create_model({arch!r}, pretrained='imagenet') with the names of your classes"
        )
    return names


def is_saved(name: str) -> bool:
    """Return whether this names a model folder (prefixed, or by its path) or a repository on the Hub, not a row."""
    folder = os.path.expanduser(name)  # noqa: PTH111 - never raises, as Path.expanduser does
    return name.startswith((LOCAL, HUB)) or (name not in _rows_by_name() and os.path.isdir(folder))  # noqa: PTH112


def recognize(sha256: str) -> PublishedFile | None:
    """Return the row whose file has this SHA-256 (64 hex digits), as far as the row states it."""
    files: tuple[PublishedFile, ...] = (*_with_digests(_ROWS), DEMO, *IMAGENET.values())
    return next((file for file in files if sha256.startswith(file.stated_sha256)), None)


def stated_digests(path: Path = Path(__file__).parent / "digests.sha256") -> dict[str, str]:
    """Return whole digests by file name, from a file in the format of `sha256sum`.

    A maintainer who has the published files fills it: `hrnet-zoo verify --all --sha256sum > digests.sha256`.
    """
    lines = path.read_text(encoding="ascii").splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


@cache
def _with_digests(rows: tuple[ModelInfo, ...]) -> tuple[ModelInfo, ...]:
    digests = stated_digests()
    return tuple(replace(row, sha256=digests[row.file_name]) if row.file_name in digests else row for row in rows)


@cache
def _rows_by_name() -> dict[str, ModelInfo]:
    return {name: row for row in (*_with_digests(_ROWS), DEMO) for name in (row.name, *row.aliases)}
