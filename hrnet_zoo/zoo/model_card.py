"""Configuration -> the text of a model card, as the Hub shows it: metadata in YAML, then Markdown for people."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from hrnet_zoo.datasets import DATASETS
from hrnet_zoo.zoo.catalog import ARCHS, DEMO, list_models, model_info
from hrnet_zoo.zoo.model_config import LIBRARY, ModelConfig, Parent

_HUB = "hf-hub:"
_USE = """\
```python
import hrnet_zoo

model = hrnet_zoo.create_model("hf-hub:ORG/NAME")  # this repository; "local-dir:PATH" for a folder
model.predict("image.jpg").overlay().save("overlay.png")
```
"""
_ACCURACY = (("miou", "mIoU"), ("macc", "mAcc"), ("aacc", "aAcc"))


def model_card(config: ModelConfig) -> str:
    """Write the card of a saved model; every text that comes from its user is quoted or escaped."""
    front = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in _metadata(config).items())
    return f"---\n{front}---\n\n{_body(config)}"


def _metadata(config: ModelConfig) -> dict[str, Any]:
    """Return the card's metadata; JSON on one line each is YAML too, and leaves no room for what a name might mean."""
    facts: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "hrnet", "fcn"],
        "license": config.license,
    }
    if config.parent and config.parent.name.startswith(_HUB):  # the Hub links it, so only what is there
        facts["base_model"] = config.parent.name.removeprefix(_HUB).partition("@")[0]
    data, metrics = config.dataset, config.metrics
    if _is_official(config):
        facts["datasets"] = [data.key]
    measured = [
        {"type": kind, "name": f"{title} (%)", "value": value}
        for kind, title, value in (
            ("mean_iou", "mIoU", metrics.miou),
            ("mean_accuracy", "mAcc", metrics.macc),
            ("pixel_accuracy", "aAcc", metrics.aacc),
        )
        if value is not None
    ]
    if measured:
        on = {"type": data.key if _is_official(config) else "custom", "name": metrics.data or data.title}
        result = {"task": {"type": "image-segmentation"}, "dataset": on, "metrics": measured}
        facts["model-index"] = [{"name": f"FCN {ARCHS[config.arch][0]}", "results": [result]}]
    return facts


def _body(config: ModelConfig) -> str:
    data, metrics, parent = config.dataset, config.metrics, config.parent
    network = ARCHS[config.arch][0]
    boxed = "{} x {}".format(*data.resize_to)
    how = "in windows of {} px every {} px".format(*data.window) if data.sliding_window else "whole"
    figures = [
        f"{title} {getattr(metrics, key):.2f} %" for key, title in _ACCURACY if getattr(metrics, key) is not None
    ]
    lines = [
        f"# FCN {network}, {len(config.classes)} classes",
        "",
        "Semantic segmentation: every pixel of an image gets one of the classes below. Saved by hrnet-zoo.",
        "",
        "## Use",
        "",
        _USE,
        "## Classes",
        "",
        "| index | class | color |",
        "| ---: | --- | --- |",
        *(
            f"| {index} | {inline(name)} | `#{red:02x}{green:02x}{blue:02x}` ({red}, {green}, {blue}) |"
            for index, (name, (red, green, blue)) in enumerate(zip(config.classes, data.palette, strict=True))
        ),
        "",
        "In label maps the value is the class, 255 is ignored.",
        "",
        "## How it was made",
        "",
        f"- Started from: {_started(parent)}",
        f"- Data: {inline(data.title)}",
        *([f"- Steps of the optimizer since: {metrics.steps:,}"] if metrics.steps is not None else []),
        f"- Images enter the network {how}, RGB, with their ratio kept, in a box of {boxed} px",
        f"- SHA-256 of the weights: `{config.data_sha256}`",
        "",
        "## Figures",
        "",
        (", ".join(figures) + (f" on {inline(metrics.data)}" if metrics.data else "")) if figures else "None measured.",
        "",
        "## Terms",
        "",
        f"- License of the weights: {inline(config.license)}",
        f"- Terms of the data that they were trained on: {inline(data.data_license)}",
        *_parent_terms(config),
        "",
    ]
    return "\n".join(lines)


def inline(text: str) -> str:
    """Escape a text for one place in a line of Markdown: it comes out as it is, never as HTML, link or emphasis."""
    return re.sub(r"([\\`*_{}\[\]|~#!$])", r"\\\1", html.escape(text, quote=False))


def _started(parent: Parent | None) -> str:
    if parent is None:
        return "random weights"
    name = "a model folder of the same library" if parent.name == "local-dir" else inline(parent.name)
    file = f", file {inline(parent.file)}" if parent.file else ""
    digest = parent.source_sha256 or parent.data_sha256
    return f"{name}{file}" + (f", SHA-256 `{digest}`" if digest else "")


def _parent_terms(config: ModelConfig) -> list[str]:
    """Say the terms of the data behind the checkpoint that this one started from, where they are others."""
    name = config.parent.name if config.parent else ""
    if name not in (*list_models(), DEMO.name):
        return []
    row = model_info(name)
    return [f"- What it started from: {inline(row.license_note)}"]


def _is_official(config: ModelConfig) -> bool:
    """Tell whether the model is for one of the four datasets, as it is."""
    known = DATASETS.get(config.dataset.key)
    return known is not None and (known.title, known.classes) == (config.dataset.title, config.dataset.classes)
