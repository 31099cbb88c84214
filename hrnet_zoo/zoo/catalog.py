"""Model name -> catalog row: the 23 published FCN-HRNet checkpoints, and the bundled demo.

Figures: https://github.com/open-mmlab/mmsegmentation/tree/main/configs/hrnet (the FCN table), as first published in
2020. Three of these checkpoints were retrained upstream in August 2021; `MODEL_CARD.md` says which.
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

from hrnet_zoo.datasets import ADE20K, CITYSCAPES, DATASETS, PASCAL_CONTEXT, SCENES, VOC12AUG, Dataset
from hrnet_zoo.datasets.dataset import Color
from hrnet_zoo.errors import ConfigError, UnknownModelError

PUBLISHED_FOLDER = "https://download.openmmlab.com/mmsegmentation/v0.5/hrnet"

LOCAL, HUB = "local-dir:", "hf-hub:"  # prefixes of saved models' names

# name in the published table; parameters without the classifier; channels that enter the classifier
ARCHS = {
    "hr18s": ("HRNetV2p-W18-Small", 3_934_160, 270),
    "hr18": ("HRNetV2p-W18", 9_635_700, 270),
    "hr48": ("HRNetV2p-W48", 65_844_960, 720),
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
    sha256: str | None = None  # the whole digest; None until someone who has the file has stated it

    @property
    def name(self) -> str:
        """Canonical name."""
        return f"fcn_{self.arch}_{self.dataset.key}_{self.thousand_iterations}k"

    @property
    def method(self) -> str:
        """Kind of head, as in the published table."""
        return "FCN"

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
        """Name of the training configuration in mmsegmentation 0.x, which is also the stem of the files' names."""
        return f"fcn_{self.arch}_{self.crop_size}_{self.thousand_iterations}k_{self.dataset.key}"

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names of this row: configuration in mmsegmentation 0.x and 1.x, file name, address."""
        batch = f"4xb{self.dataset.batch_per_gpu}"
        key = self.dataset.key.replace("_", "-")
        config_1x = f"fcn_{self.arch}_{batch}-{self.thousand_iterations}k_{key}-{self.crop_size}"
        return self.config, config_1x, self.file_name, self.checkpoint_url

    @property
    def file_name(self) -> str:
        """Name of the published file."""
        return f"{self.config}_{self.published}-{self.sha256_prefix}.pth"

    @property
    def checkpoint_url(self) -> str:
        """Published address of the checkpoint."""
        return f"{PUBLISHED_FOLDER}/{self.config}/{self.file_name}"

    @property
    def stated_sha256(self) -> str:
        """The file's SHA-256, as far as it is known: the whole digest, or the beginning in the file's name."""
        return self.sha256 or self.sha256_prefix

    @property
    def log_url(self) -> str | None:
        """Published address of the training log."""
        # The two Pascal Context logs are named with a hyphen before the date.
        separator = "-" if self.dataset is PASCAL_CONTEXT else "_"
        return f"{PUBLISHED_FOLDER}/{self.config}/{self.config}{separator}{self.published}.log.json"

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
    def parameters(self) -> int:
        """Trainable parameters."""
        _, body, channels = ARCHS[self.arch]
        return body + (channels + 1) * self.num_classes

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
            *("parameters", "license_note"),
        )
        head = {"name": self.name, "method": self.method, "backbone": self.backbone, "dataset": self.dataset_title}
        return head | {name: getattr(self, name) for name in names}


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
)
# fmt: on


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


def list_models(pattern: str = "*", *, dataset: str | None = None, arch: str | None = None) -> list[str]:
    """Return the names of the published checkpoints, in the published table's order.

    Args:
        pattern: `fnmatch` pattern on the name, such as "*_160k"; without `*`, `?` and `[`, a substring: "cityscapes".
        dataset: keep one dataset: "cityscapes", "ade20k", "voc12aug" or "pascal_context".
        arch: keep one network: "hr18s", "hr18" or "hr48".

    Raises:
        ConfigError: there is no such dataset or network.

    """
    for what, value, choices in (("dataset", dataset, DATASETS), ("arch", arch, ARCHS)):
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
        if fnmatch.fnmatchcase(row.name, pattern) and dataset in (None, row.dataset.key) and arch in (None, row.arch)
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


def _nearest(name: str) -> tuple[str, ...]:
    """Suggest rows with similar names, in the spelling of other libraries too: HRNetV2-W48, hrnet_w18_small."""
    text = re.sub(r"hrnet\w*?[-_]?w(?=\d)", "hr", name[:200].lower())
    text = "fcn_" + text.removeprefix("fcn").lstrip("-_").replace("_small", "s")
    if text.removeprefix("fcn_") in ARCHS:  # a network without a dataset: of each dataset, the longest training
        rows = [row for row in _ROWS if row.arch == text.removeprefix("fcn_")]
        return tuple({row.dataset.key: row.name for row in rows}.values())
    names = [row.name for row in (*_ROWS, DEMO)]
    return () if is_saved(name) else tuple(difflib.get_close_matches(text, names, n=3, cutoff=0.5))


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
    return "type one of these names; `hrnet-zoo list` or hrnet_zoo.list_models() has all"


def is_saved(name: str) -> bool:
    """Return whether this names a model folder (prefixed, or by its path) or a repository on the Hub, not a row."""
    folder = os.path.expanduser(name)  # noqa: PTH111 - never raises, as Path.expanduser does
    return name.startswith((LOCAL, HUB)) or (name not in _rows_by_name() and os.path.isdir(folder))  # noqa: PTH112


def recognize(sha256: str) -> ModelInfo | None:
    """Return the row whose file has this SHA-256 (64 hex digits), as far as the row states it."""
    return next((row for row in (*_with_digests(_ROWS), DEMO) if sha256.startswith(row.stated_sha256)), None)


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
