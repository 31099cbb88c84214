"""The configuration of a saved model: a versioned JSON object that is refused unless it is exactly what we write."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hrnet_zoo.datasets import Dataset
from hrnet_zoo.datasets.label_rules import identity
from hrnet_zoo.errors import ModelConfigError
from hrnet_zoo.zoo.catalog import ARCHS

LIBRARY = "hrnet-zoo"  # also the Hub's `library_name`
SCHEMA = 2  # raise it when the previous version would refuse or misread what is written
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
CONFIG_KEY = "config"  # metadata key in the header of the weights file; its value is `ModelConfig.to_header()`

MAX_BYTES = 1 << 20  # 255 classes with the longest names take a tenth of it
# The normalization, written for other readers; a file with other values is refused, since we would compute it wrongly.
# A test compares them with `images.MEAN` and `images.STD`, whose module imports torch.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
LABELS = identity(2).title


@dataclass(frozen=True)
class Parent:
    """The checkpoint that a model started from.

    Attributes:
        name: its name for `create_model`: a catalog name, "hf-hub:ORG/NAME@COMMIT", or just "local-dir" for a folder,
            because paths reveal user names.
        file: file name, without folders.
        source_sha256: of the published file that the weights were converted from, 64 hex digits.
        data_sha256: of the weights in their safetensors file, 64 hex digits.

    """

    name: str
    file: str | None = None
    source_sha256: str | None = None
    data_sha256: str | None = None


@dataclass(frozen=True)
class Metrics:
    """Measured accuracy.

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
    """Everything about a model except its weights.

    Attributes:
        arch: "hr18s", "hr18" or "hr48".
        dataset: class names, colors and image preprocessing.
        data_sha256: of the weights that this belongs to, 64 hex digits.
        license: of the weights, as the Hub abbreviates it: "apache-2.0", "other", "unknown".
        parent: the checkpoint that it started from; None if it was trained from random weights.
        metrics: measured accuracy.

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
        """Return the JSON object."""
        data = self.dataset
        return {
            "schema": SCHEMA,
            "library": LIBRARY,
            "arch": self.arch,
            "classes": [
                {"name": name, "color": list(color)} for name, color in zip(data.classes, data.palette, strict=True)
            ],
            "labels": LABELS,
            "input": {
                "resize_to": list(data.resize_to),
                "crop": list(data.crop),
                "sliding_window": data.sliding_window,
                "window": list(data.window),
                "mean": list(MEAN),
                "std": list(STD),
            },
            "data": {name: getattr(data, name) for name in _FORMAT["data"]},
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
    """Return the configuration in a JSON text.

    Args:
        text: what `ModelConfig.to_json` or `to_header` returned; anything else raises ModelConfigError.
        source: where it comes from, for messages.
        data_sha256: of the weights, for a text that lacks it (`to_header`).

    """
    if len(text) > MAX_BYTES:
        raise refusal(source, "$", f"more than {MAX_BYTES:,} bytes")
    try:
        content = json.loads(text)
        if isinstance(content, dict) and content.get("schema") == 1:
            content = {**_upgraded(content), "schema": SCHEMA}
    except (ValueError, RecursionError) as error:
        raise refusal(source, "$", f"not JSON: {str(error)[:200]}") from None
    if data_sha256 is not None and isinstance(content, dict):
        content["data_sha256"] = data_sha256
    for path, found in _faults(content, _FORMAT, "$"):
        raise refusal(source, path, found)
    inputs, names = content["input"], [each["name"] for each in content["classes"]]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise refusal(source, f"$.classes[{index}].name", f"{name!r} a second time")
    if inputs["resize_to"][0] < inputs["resize_to"][1]:
        raise refusal(source, "$.input.resize_to", f"{inputs['resize_to']}, but the long side comes first")
    dataset = Dataset(
        **content["data"],
        crop=tuple(inputs["crop"]),
        resize_to=tuple(inputs["resize_to"]),
        sliding_window=inputs["sliding_window"],
        labels=tuple((each["name"], tuple(each["color"])) for each in content["classes"]),
    )
    if inputs["window"] != list(dataset.window):
        raise refusal(source, "$.input.window", f"{inputs['window']}, but this crop requires {list(dataset.window)}")
    return ModelConfig(
        arch=content["arch"],
        dataset=dataset,
        data_sha256=content["data_sha256"],
        license=content["license"],
        parent=Parent(**content["parent"]) if content["parent"] else None,
        metrics=Metrics(**content["metrics"]),
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


def _upgraded(content: Any) -> Any:  # noqa: ANN401 - JSON
    """Rename the keys of schema 1, which differ in their spelling."""
    if isinstance(content, list):
        return [_upgraded(each) for each in content]
    if not isinstance(content, dict):
        return content
    new = {
        "colour": "color",
        "box": "resize_to",
        "slides": "sliding_window",
        "pictures_per_gpu": "batch_per_gpu",
        "terms": "data_license",
    }
    return {new.get(key, key.replace("cence", "cense")): _upgraded(each) for key, each in content.items()}


class _Rule(NamedTuple):
    """What a JSON value must be; `expected` says it in words."""

    expected: str
    allows: Callable[[Any], bool]


class _List(NamedTuple):
    each: object
    shortest: int
    longest: int


class _OrNull(NamedTuple):
    rule: object


def _text(longest: int) -> _Rule:
    def allows(text: object) -> bool:
        return isinstance(text, str) and 1 <= len(text) <= longest and text.isprintable() and text == text.strip()

    return _Rule(f"1 to {longest} printable characters without outer blanks", allows)


def _integer(low: int, high: int) -> _Rule:
    # True is an int to Python.
    return _Rule(f"an integer from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def _one_of(*known: object) -> _Rule:
    return _Rule(" or ".join(map(repr, known)), lambda value: value in known)


_SHA256 = _Rule("64 hex digits", lambda text: isinstance(text, str) and bool(re.fullmatch("[0-9a-f]{64}", text)))
_PERCENT = _OrNull(_Rule("percent (0 to 100)", lambda value: type(value) in (int, float) and 0 <= value <= 100))
_FILE_NAME = _OrNull(_Rule("a file name", lambda text: _text(500).allows(text) and not {*text} & {*"/\\"}))
_SIZE = _List(_integer(32, 16_384), 2, 2)
_FORMAT: Mapping[str, Any] = {
    "schema": _integer(SCHEMA, SCHEMA),
    "library": _one_of(LIBRARY),
    "arch": _one_of(*ARCHS),
    "classes": _List({"name": _text(100), "color": _List(_integer(0, 255), 3, 3)}, 2, 255),
    "labels": _one_of(LABELS),
    "input": {
        "resize_to": _SIZE,
        "crop": _SIZE,
        "sliding_window": _Rule("true or false", lambda value: isinstance(value, bool)),
        "window": _List(_integer(1, 16_384), 2, 2),
        "mean": _one_of([*MEAN]),
        "std": _one_of([*STD]),
    },
    "data": {"key": _text(100), "title": _text(500), "batch_per_gpu": _integer(1, 65_536), "data_license": _text(500)},
    "parent": _OrNull(
        {"name": _text(500), "file": _FILE_NAME, "source_sha256": _OrNull(_SHA256), "data_sha256": _OrNull(_SHA256)}
    ),
    "metrics": {
        **dict.fromkeys(("miou", "macc", "aacc"), _PERCENT),
        "data": _OrNull(_text(500)),
        "steps": _OrNull(_integer(0, 10**12)),
    },
    "license": _text(100),
    "data_sha256": _SHA256,
}


def _faults(value: Any, rule: Any, path: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    """Yield each place where a JSON value breaks a rule, with what was found there."""
    match rule:
        case _OrNull(inner):
            if value is not None:
                yield from _faults(value, inner, path)
        case _List(each, shortest, longest):
            if not isinstance(value, list) or not shortest <= len(value) <= longest:
                count = str(shortest) if shortest == longest else f"{shortest} to {longest}"
                yield path, f"{reprlib.repr(value)}, expected a list of {count}"
                return
            for index, entry in enumerate(value):
                yield from _faults(entry, each, f"{path}[{index}]")
        case dict():
            if not isinstance(value, dict):
                yield path, f"{reprlib.repr(value)}, expected an object"
                return
            for name, inner in rule.items():
                if name in value:
                    yield from _faults(value[name], inner, f"{path}.{name}")
                else:
                    yield f"{path}.{name}", "missing"
            yield from ((path, f"the unknown key {reprlib.repr(name)}") for name in value if name not in rule)
        case _Rule(expected, allows):
            if not allows(value):
                yield path, f"{reprlib.repr(value)}, expected {expected}"
