"""What a model folder says of its network: a strict, versioned JSON object, and nothing that could be code.

Strict in both directions: a key more, a key less or a value of another type is refused with its place in the JSON, so
that no two readers take one file for two models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hrnet_zoo.datasets import Dataset
from hrnet_zoo.datasets.rules import identity
from hrnet_zoo.errors import ModelConfigError
from hrnet_zoo.zoo.catalog import ARCHS
from hrnet_zoo.zoo.strict_json import (
    Fault,
    as_digest,
    as_object,
    as_pair,
    as_text,
    as_whole,
    parse,
    read,
    require_keys,
    require_same,
    shown,
)

LIBRARY = "hrnet-zoo"  # also the Hub's `library_name`
SCHEMA = 2  # raise it whenever a reader of the last version would refuse or misread what is written
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
CONFIG_KEY = "config"  # of the metadata in the weights' header: the text of `ModelConfig.to_header`

MAX_BYTES = 1 << 20  # 255 classes with the longest names take a tenth of it
MAX_TEXT = 500  # characters of a sentence
MAX_NAME = 100  # characters of a class name
MAX_SIDE = 16_384  # pixels of boxes and crops
# What this library subtracts and divides by. Stated for other readers; a file that says otherwise would be computed
# wrongly, and is refused. A test holds them to `images.MEAN` and `images.STD`, which need torch to be imported.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
_DATA = ("key", "title", "batch_per_gpu", "data_license")  # of a dataset, beside what has its own place


@dataclass(frozen=True)
class Parent:
    """The checkpoint that a model started from.

    Attributes:
        name: what `create_model` takes for it: a catalog name, or "hf-hub:ORG/NAME@COMMIT"; of a folder on somebody's
            disk only "local-dir", for paths tell of people.
        file: name of its file, without folders.
        source_sha256: of the published file that the weights were converted from, 64 hex digits.
        data_sha256: of the weights in their safetensors file, 64 hex digits.

    """

    name: str
    file: str | None = None
    source_sha256: str | None = None
    data_sha256: str | None = None


@dataclass(frozen=True)
class Metrics:
    """What was measured.

    Attributes:
        miou: mean intersection over union, percent.
        macc: mean class accuracy, percent.
        aacc: pixel accuracy, percent.
        data: the images that these were measured on.
        steps: optimizer steps since the parent.

    """

    miou: float | None = None
    macc: float | None = None
    aacc: float | None = None
    data: str | None = None
    steps: int | None = None


@dataclass(frozen=True)
class ModelConfig:
    """Everything of a model but its weights.

    Attributes:
        arch: "hr18s", "hr18" or "hr48".
        dataset: names and colors of the classes, and how images are brought to the network.
        data_sha256: of the weights that this belongs to, 64 hex digits.
        license: of the weights, as the Hub abbreviates it: "apache-2.0", "other", "unknown".
        parent: the checkpoint that it started from; None for one trained from random weights.
        metrics: what was measured.

    """

    arch: str
    dataset: Dataset
    data_sha256: str
    license: str
    parent: Parent | None = None
    metrics: Metrics = Metrics()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index."""
        return self.dataset.classes

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object, without `data_sha256`: that is added where the weights are not beside it."""
        data = self.dataset
        return {
            "schema": SCHEMA,
            "library": LIBRARY,
            "arch": self.arch,
            "classes": [{"name": name, "color": list(data.palette[i])} for i, name in enumerate(data.classes)],
            "labels": identity(len(data.classes)).title,
            "input": {
                "resize_to": list(data.resize_to),
                "crop": list(data.crop),
                "sliding_window": data.sliding_window,
                "window": list(data.window),
                "mean": list(MEAN),
                "std": list(STD),
            },
            "data": {name: getattr(data, name) for name in _DATA},
            "parent": asdict(self.parent) if self.parent else None,
            "metrics": asdict(self.metrics),
            "license": self.license,
        }

    def to_json(self) -> str:
        """Return the text of `config.json`."""
        return json.dumps({**self.to_dict(), "data_sha256": self.data_sha256}, indent=1) + "\n"

    def to_header(self) -> str:
        """Return what the header of the weights' file carries: all but `data_sha256`, which stands there already."""
        return json.dumps(self.to_dict())


def read_config(path: Path) -> ModelConfig:
    """Read a `config.json`.

    Raises:
        ModelConfigError: there is no such file, or it is not exactly what `ModelConfig.to_json` writes.

    """
    try:
        text = read(path, MAX_BYTES)
    except Fault as fault:
        raise refusal(str(path), fault.path, fault.found) from None
    return parse_config(text, str(path))


def parse_config(text: bytes | str, source: str, data_sha256: str | None = None) -> ModelConfig:
    """Read the JSON of a model; `source` is for messages.

    Args:
        text: UTF-8.
        source: where it comes from.
        data_sha256: that of the weights, where the text does not carry it (`ModelConfig.to_header`).

    Raises:
        ModelConfigError: the text is not exactly what `ModelConfig` writes. Its `json_path` names the place.

    """
    try:
        content = parse(text, MAX_BYTES)
        if data_sha256 is not None and isinstance(content, dict):
            if "data_sha256" in content:
                raise Fault("$", "the unknown key 'data_sha256'")
            content["data_sha256"] = data_sha256
        return _config(content)
    except Fault as fault:
        raise refusal(source, fault.path, fault.found) from None


def checked(config: ModelConfig, source: str) -> ModelConfig:
    """Return the config as a reader will get it; `source` says what is to be saved where.

    Raises:
        ModelConfigError: a reader would refuse it, for a class name with control characters for instance.

    """
    try:
        return parse_config(config.to_json(), source)
    except ModelConfigError as error:
        error.asked, error.done, error.advice = f"save {source}", "nothing was saved", "correct it, and try again"
        raise


def refusal(source: str, path: str, found: str) -> ModelConfigError:
    """Make the error for the place `path` of the config of `source`."""
    return ModelConfigError(
        asked=f"read the model configuration {source}",
        found=f"{path}: {found}",
        done="nothing was loaded",
        advice="save the model again with save_pretrained; a newer hrnet-zoo may have written it",
        source=source,
        json_path=path,
    )


def _config(content: object) -> ModelConfig:
    top = as_object(content, "$")
    if top.get("schema") == 1:
        top = as_object(_renamed({**top, "schema": SCHEMA}), "$")
    if "schema" in top and top["schema"] != SCHEMA:
        raise Fault("$.schema", f"version {shown(top['schema'])}, known is {SCHEMA}")
    names = ("schema", "library", "arch", "classes", "labels", "input", "data", "parent", "metrics", "license")
    require_keys(top, "$", (*names, "data_sha256"))
    as_whole(top["schema"], "$.schema", SCHEMA, SCHEMA)
    require_same(top["library"], "$.library", LIBRARY)
    if not isinstance(top["arch"], str) or top["arch"] not in ARCHS:
        raise Fault("$.arch", f"{shown(top['arch'])}, known are {', '.join(ARCHS)}")
    dataset = _dataset(top)
    require_same(top["labels"], "$.labels", identity(len(dataset.classes)).title)
    return ModelConfig(
        arch=top["arch"],
        dataset=dataset,
        data_sha256=as_digest(top["data_sha256"], "$.data_sha256"),
        license=as_text(top["license"], "$.license", MAX_NAME),
        parent=None if top["parent"] is None else _parent(top["parent"]),
        metrics=_metrics(top["metrics"]),
    )


def _renamed(content: object) -> object:
    """Rename the keys of schema 1, which were spelled the British way or named unlike the field."""
    if isinstance(content, list):
        return [_renamed(each) for each in content]
    if not isinstance(content, Mapping):
        return content
    new = {"box": "resize_to", "slides": "sliding_window", "pictures_per_gpu": "batch_per_gpu", "terms": "data_license"}
    return {new.get(key, key.replace("our", "or").replace("cence", "cense")): _renamed(content[key]) for key in content}


def _dataset(top: Mapping[str, Any]) -> Dataset:
    inputs, data = as_object(top["input"], "$.input"), as_object(top["data"], "$.data")
    require_keys(inputs, "$.input", ("resize_to", "crop", "sliding_window", "window", "mean", "std"))
    require_keys(data, "$.data", _DATA)
    if not isinstance(inputs["sliding_window"], bool):
        raise Fault("$.input.sliding_window", f"{shown(inputs['slides'])}, neither true nor false")
    dataset = Dataset(
        key=as_text(data["key"], "$.data.key", MAX_NAME),
        title=as_text(data["title"], "$.data.title", MAX_TEXT),
        crop=as_pair(inputs["crop"], "$.input.crop", 32, MAX_SIDE),
        batch_per_gpu=as_whole(data["batch_per_gpu"], "$.data.batch_per_gpu", 1, 65_536),
        resize_to=as_pair(inputs["resize_to"], "$.input.resize_to", 32, MAX_SIDE),
        sliding_window=inputs["sliding_window"],
        data_license=as_text(data["data_license"], "$.data.data_license", MAX_TEXT),
        labels=_labels(top["classes"]),
    )
    if dataset.resize_to[0] < dataset.resize_to[1]:
        raise Fault("$.input.resize_to", f"{list(dataset.resize_to)}, but the long side comes first")
    for name, known in (("window", dataset.window), ("mean", MEAN), ("std", STD)):
        # The window follows from the crop; the others are the library's own.
        require_same(inputs[name], f"$.input.{name}", list(known))
    return dataset


def _labels(value: object) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    if not isinstance(value, list) or not 2 <= len(value) <= 255:
        found = f"{len(value)} classes" if isinstance(value, list) else shown(value)
        raise Fault("$.classes", f"{found}, where a list of 2 to 255 is expected")
    labels, seen = [], set[str]()
    for index, entry in enumerate(value):
        path = f"$.classes[{index}]"
        item = as_object(entry, path)
        require_keys(item, path, ("name", "color"))
        name = as_text(item["name"], f"{path}.name", MAX_NAME)
        if name in seen:
            raise Fault(f"{path}.name", f"{shown(name)} stands there twice")
        seen.add(name)
        color = item["color"]
        if not isinstance(color, list) or len(color) != 3:
            raise Fault(f"{path}.color", f"{shown(color)}, where [red, green, blue] is expected")
        red, green, blue = (as_whole(level, f"{path}.color[{i}]", 0, 255) for i, level in enumerate(color))
        labels.append((name, (red, green, blue)))
    return tuple(labels)


def _parent(value: object) -> Parent:
    parent = as_object(value, "$.parent")
    require_keys(parent, "$.parent", tuple(field.name for field in fields(Parent)))
    as_text(parent["name"], "$.parent.name", MAX_TEXT)
    if parent["file"] is not None and {*as_text(parent["file"], "$.parent.file", MAX_TEXT)} & {*"/\\"}:
        raise Fault("$.parent.file", "a path, where a file's name is expected")
    for key in ("source_sha256", "data_sha256"):
        if parent[key] is not None:
            as_digest(parent[key], f"$.parent.{key}")
    return Parent(**parent)


def _metrics(value: object) -> Metrics:
    metrics = as_object(value, "$.metrics")
    require_keys(metrics, "$.metrics", tuple(field.name for field in fields(Metrics)))
    for name in ("miou", "macc", "aacc"):
        figure, path = metrics[name], f"$.metrics.{name}"
        if figure is not None and (type(figure) not in (int, float) or not 0 <= figure <= 100):
            raise Fault(path, f"{shown(figure)}, where percent (0 to 100) or null is expected")
    if metrics["data"] is not None:
        as_text(metrics["data"], "$.metrics.data", MAX_TEXT)
    if metrics["steps"] is not None:
        as_whole(metrics["steps"], "$.metrics.steps", 0, 10**12)
    return Metrics(**metrics)
