"""The configuration of a saved model: a versioned JSON object that is refused unless it is exactly what we write."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from hrnet_zoo.datasets import DATASETS, Dataset
from hrnet_zoo.datasets.dataset import Color
from hrnet_zoo.datasets.label_rules import identity
from hrnet_zoo.errors import ModelConfigError
from hrnet_zoo.zoo.catalog import ARCHS, METHODS

LIBRARY = "hrnet-zoo"  # also the Hub's `library_name`
SCHEMA = 2  # raise it when the previous version would refuse or misread what is written
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
CONFIG_KEY = "config"  # metadata key in the header of the weights file; its value is `ModelConfig.to_header()`

MAX_BYTES = 1 << 20  # 255 classes with the longest names take a tenth of it
# As in `images.read`, whose module imports torch. They are written for other readers; other values are refused.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
LABELS = identity(2).title


@dataclass(frozen=True)
class Parent:
    """The checkpoint that a model started from."""

    name: str  # for `create_model`; just "local-dir" for a folder, because paths reveal user names
    file: str | None = None  # without folders
    source_sha256: str | None = None  # of the published file that the weights were converted from
    data_sha256: str | None = None  # of the weights in their safetensors file


@dataclass(frozen=True)
class Metrics:
    """Measured accuracy."""

    miou: float | None = None  # percent, as macc and aacc
    macc: float | None = None
    aacc: float | None = None
    data: str | None = None  # the images that these were measured on
    steps: int | None = None  # of the optimizer, since the parent


@dataclass(frozen=True)
class ModelConfig:
    """Everything about a model except its weights."""

    arch: str  # one of ARCHS
    dataset: Dataset
    data_sha256: str  # of the weights that this belongs to, 64 hex digits
    license: str  # of the weights, as the Hub abbreviates it: "apache-2.0", "other", "unknown"
    parent: Parent | None = None  # None: trained from random weights
    metrics: Metrics = Metrics()
    method: str = "FCN"  # or "OCRNet"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object."""
        data = self.dataset
        return {
            "schema": SCHEMA,
            "library": LIBRARY,
            "arch": self.arch,
            # Versions of this library without OCRNet read the others, and refuse these.
            **({} if self.method == "FCN" else {"method": self.method}),
            "classes": [
                {"name": name, "color": list(color)} for name, color in zip(data.classes, data.palette, strict=True)
            ],
            "labels": LABELS,
            "input": {
                "resize_to": list(data.resize_to),
                "crop": list(data.crop),
                "sliding_window": data.sliding_window,
                "window": list(data.window),
                # Versions of this library that know RGB alone refuse others.
                **({"bands": list(data.bands)} if data.own_bands else {}),
                "mean": list(data.mean or MEAN),
                "std": list(data.std or STD),
            },
            "data": {key: getattr(data, key) for key in ("key", "title", "batch_per_gpu", "data_license")},
            "parent": asdict(self.parent) if self.parent else None,
            "metrics": asdict(self.metrics),
            "license": self.license,
            "data_sha256": self.data_sha256,
        }

    def to_json(self) -> str:
        """Return the text of `config.json`."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def to_header(self) -> str:
        """Return the text for the header of the weights file, which has `data_sha256` in a place of its own."""
        return json.dumps({key: value for key, value in self.to_dict().items() if key != "data_sha256"})


def read_config(path: Path) -> ModelConfig:
    """Read a `config.json`, or raise ModelConfigError."""
    try:
        if not path.is_file():  # before open(), which would wait for the writer of a pipe
            raise refusal(str(path), "$", "no such file")
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise refusal(str(path), "$", f"unreadable file: {error.strerror}") from error
    return parse_config(text, str(path))


def parse_config(text: bytes | str, source: str, data_sha256: str | None = None) -> ModelConfig:
    """Return the configuration in a text of `to_json`, or of `to_header`, which lacks `data_sha256`.

    Raises:
        ModelConfigError: the text of `source` is anything else.

    """
    if len(text) > MAX_BYTES:
        raise refusal(source, "$", f"more than {MAX_BYTES:,} bytes")
    try:
        content = json.loads(text)
        if isinstance(content, dict) and content.get("schema") == 1:
            content = {**json.loads(text, object_pairs_hook=_rename), "schema": SCHEMA}
        if isinstance(content, dict) and data_sha256 is not None:
            content["data_sha256"] = data_sha256
        for path, value in _leaves(content, "$"):
            rule = _RULES.get(re.sub(r"(\.(?:classes|bands|mean|std))\[\d+\]", r"\1", path))
            if rule is None or not rule.allows(value):
                expected = rule.expected if rule else "no such value here"
                raise refusal(source, path[:200], f"{reprlib.repr(value)}, expected {expected}")
        config = _build(content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise refusal(source, "$", f"not all of a configuration: {type(error).__name__}: {str(error)[:200]}") from None
    ours = config.to_dict()
    for key in {**content, **ours}:
        if content.get(key) != ours.get(key):
            raise refusal(source, f"$.{key}", f"{reprlib.repr(content.get(key))}, expected {ours.get(key)!r}")
    names = config.dataset.classes
    if not 2 <= len(names) == len(set(names)) <= 255:
        raise refusal(source, "$.classes", f"{len(set(names))} names for {len(names)} classes; expected 2 to 255")
    bands = config.dataset.bands
    if not len(set(bands)) == len(bands) == len(config.dataset.mean or MEAN) == len(config.dataset.std or STD):
        raise refusal(source, "$.input.bands", f"{len(set(bands))} names; expected as many as of mean and of std")
    if config.dataset.resize_to[0] < config.dataset.resize_to[1]:
        raise refusal(source, "$.input.resize_to", f"{config.dataset.resize_to}, but the long side comes first")
    return config


def _build(content: Mapping[str, Any]) -> ModelConfig:
    inputs, labels = content["input"], list[tuple[str, Color]]()
    for each in content["classes"]:
        red, green, blue = each["color"]
        labels.append((each["name"], (red, green, blue)))
    (long, short), (height, width) = inputs["resize_to"], inputs["crop"]
    dataset = Dataset(
        **content["data"],
        resize_to=(long, short),
        crop=(height, width),
        sliding_window=inputs["sliding_window"],
        labels=tuple(labels),
    )
    if "bands" in inputs:
        bands, mean, std = (tuple(inputs[key]) for key in ("bands", "mean", "std"))
        dataset = replace(dataset, bands=bands, mean=mean, std=std)
    known = DATASETS.get(dataset.key)
    if known and known.title == dataset.title:  # else these are other images
        dataset = replace(dataset, meters_per_pixel=known.meters_per_pixel, bands=dataset.own_bands or known.bands)
    return ModelConfig(
        arch=content["arch"],
        dataset=dataset,
        data_sha256=content["data_sha256"],
        license=content["license"],
        parent=Parent(**content["parent"]) if content["parent"] else None,
        metrics=Metrics(**content["metrics"]),
        method=content.get("method", "FCN"),
    )


def refusal(source: str, path: str, found: str) -> ModelConfigError:
    """Return the error for the place `path` in the configuration of `source`."""
    return ModelConfigError(
        asked=f"read the model configuration {source}",
        found=f"{path}: {found}",
        done="nothing was loaded",
        advice="save the model again with save_pretrained; if a newer hrnet-zoo wrote it, upgrade",
        source=source,
        json_path=path,
    )


def _rename(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of schema 1 one of schema 2, which spells some keys differently."""
    new = {
        "colour": "color",
        "box": "resize_to",
        "slides": "sliding_window",
        "pictures_per_gpu": "batch_per_gpu",
        "terms": "data_license",
    }
    return {new.get(key, key.replace("ence", "ense")): value for key, value in pairs}  # and one British spelling


class _Value(NamedTuple):
    """A rule for a JSON value; `expected` says it in words."""

    expected: str
    allows: Callable[[Any], bool]


def _or_null(rule: _Value) -> _Value:
    return _Value(f"{rule.expected}, or null", lambda value: value is None or rule.allows(value))


def _text(longest: int, forbidden: str = "") -> _Value:
    def allows(text: Any) -> bool:  # noqa: ANN401 - JSON
        is_short = isinstance(text, str) and 1 <= len(text) <= longest
        return is_short and text.isprintable() and text == text.strip() and not {*text} & {*forbidden}

    unlike = f", none of {forbidden}" if forbidden else ""
    return _Value(f"1 to {longest} printable characters without outer blanks{unlike}", allows)


def _integer(low: int, high: int) -> _Value:
    # True is an int to Python.
    return _Value(f"an integer from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


_SHA256 = _Value("64 hex digits", lambda text: isinstance(text, str) and bool(re.fullmatch("[0-9a-f]{64}", text)))
_PERCENT = _Value("percent (0 to 100)", lambda value: type(value) in (int, float) and 0 <= value <= 100)
_ANY = _Value("anything", lambda _: True)  # compared with what we write
_RULES = {  # of the values, by path; classes and bands without their index
    **dict.fromkeys(("$.schema", "$.library", "$.labels"), _ANY),
    "$.arch": _Value(" or ".join(ARCHS), lambda value: isinstance(value, str) and value in ARCHS),
    "$.method": _Value("OCRNet, or left out for FCN", lambda value: value in [*METHODS][1:]),
    "$.classes.name": _text(100),
    **{f"$.classes.color[{index}]": _integer(0, 255) for index in range(3)},
    **{f"$.input.{key}[{index}]": _integer(32, 16_384) for key in ("resize_to", "crop") for index in range(2)},
    **{f"$.input.window[{index}]": _ANY for index in range(2)},
    "$.input.bands": _text(100),
    "$.input.mean": _Value("a number", lambda value: type(value) in (int, float) and abs(value) < 1e12),
    "$.input.std": _Value("a number above 0", lambda value: type(value) in (int, float) and 0 < value < 1e12),
    "$.input.sliding_window": _Value("true or false", lambda value: isinstance(value, bool)),
    "$.data.key": _text(100),
    "$.data.title": _text(500),
    "$.data.batch_per_gpu": _integer(1, 65_536),
    "$.data.data_license": _text(500),
    "$.parent": _Value("null or an object", lambda value: value is None),
    "$.parent.name": _text(500),
    "$.parent.file": _or_null(_text(500, forbidden="/\\")),
    **dict.fromkeys(("$.parent.source_sha256", "$.parent.data_sha256"), _or_null(_SHA256)),
    **dict.fromkeys(("$.metrics.miou", "$.metrics.macc", "$.metrics.aacc"), _or_null(_PERCENT)),
    "$.metrics.data": _or_null(_text(500)),
    "$.metrics.steps": _or_null(_integer(0, 10**12)),
    "$.license": _text(100),
    "$.data_sha256": _SHA256,
}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - JSON
    """Yield the values in a JSON value that are no filled object or list, by their paths."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _leaves(each, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for index, each in enumerate(value):
            yield from _leaves(each, f"{path}[{index}]")
    else:
        yield path, value
