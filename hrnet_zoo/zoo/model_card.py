"""Configuration -> model card: YAML metadata for the Hub, Markdown for people."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from hrnet_zoo.zoo.catalog import ARCHS, DEMO, HUB, list_models, model_info
from hrnet_zoo.zoo.model_config import LIBRARY, ModelConfig


def model_card(config: ModelConfig) -> str:
    """Return the card of a saved model; every text that comes from its user is quoted or escaped."""
    # JSON on one line is YAML too, whatever is in the names.
    front = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in _metadata(config).items())
    return f"---\n{front}---\n\n{_body(config)}"


def _metadata(config: ModelConfig) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "hrnet", config.method.lower()],
        "license": config.license,
    }
    if config.parent and config.parent.name.startswith(HUB):  # the Hub links it
        facts["base_model"] = config.parent.name.removeprefix(HUB).partition("@")[0]
    measured = [{"type": kind, "name": f"{title} (%)", "value": value} for title, kind, value in _measured(config)]
    if measured:
        on = {"type": "custom", "name": config.metrics.data or config.dataset.title}
        result = {"task": {"type": "image-segmentation"}, "dataset": on, "metrics": measured}
        facts["model-index"] = [{"name": f"{config.method} {ARCHS[config.arch][0]}", "results": [result]}]
    return facts


def _measured(config: ModelConfig) -> list[tuple[str, str, float]]:
    """Return title, name on the Hub and value (percent) of what was measured."""
    metrics = config.metrics
    named = (
        ("mIoU", "mean_iou", metrics.miou),
        ("mAcc", "mean_accuracy", metrics.macc),
        ("aAcc", "pixel_accuracy", metrics.aacc),
    )
    return [(title, kind, value) for title, kind, value in named if value is not None]


def _body(config: ModelConfig) -> str:
    data, metrics, parent = config.dataset, config.metrics, config.parent
    colors = enumerate(zip(data.classes, data.palette, strict=True))
    classes = [
        f"| {i} | {inline(name)} | `#{r:02x}{g:02x}{b:02x}` ({r}, {g}, {b}) |" for i, (name, (r, g, b)) in colors
    ]
    how = "in windows of {} px every {} px".format(*data.window) if data.sliding_window else "whole"
    channels = "RGB"
    if data.own_bands:
        facts = zip(data.bands, data.mean, data.std, strict=True)
        named = [f"{inline(name)} (mean {mean:g}, standard deviation {std:g})" for name, mean, std in facts]
        channels = f"bands in the values of their files: {', '.join(named)}"
    training = [f"Data: {inline(data.title)}"]
    licenses = [f"Weights: {inline(config.license)}", f"Training data: {inline(data.data_license)}"]
    if parent is None:
        training.append("Started from: random weights")
    else:
        name = "a model folder of this library" if parent.name == "local-dir" else inline(parent.name)
        name += " with ImageNet weights" if parent.name in ARCHS else ""
        file = f", file {inline(parent.file)}" if parent.file else ""
        digest = parent.source_sha256 or parent.data_sha256
        training.append(f"Started from: {name}{file}" + (f", SHA-256 `{digest}`" if digest else ""))
        if parent.name in (*list_models(), DEMO.name):
            licenses.append(f"What it started from: {inline(model_info(parent.name).license_note)}")
    if metrics.steps is not None:
        training.append(f"Optimizer steps: {metrics.steps:,}")
    measured = [f"{title} {value:.2f} %" for title, _, value in _measured(config)]
    on = f" on {inline(metrics.data)}" if measured and metrics.data else ""
    return f"""\
# {config.method} {ARCHS[config.arch][0]}, {len(config.dataset.classes)} classes

Semantic segmentation: every pixel of an image gets one of the classes below. Saved by hrnet-zoo.

## Use

```python
import hrnet_zoo

model = hrnet_zoo.create_model("hf-hub:ORG/NAME")  # this repository; "local-dir:PATH" for a folder
model.predict("image.jpg").overlay().save("overlay.png")
```

## Classes

| index | class | color |
| ---: | --- | --- |
{_lines("", classes)}
In label maps the value is the class, 255 is ignored.

## Training

{_lines("- ", training)}
## Preprocessing

Images are resized to fit into {data.resize_to[0]} x {data.resize_to[1]} px, aspect ratio kept, and enter the network
{how}, as {channels}.

## Metrics

{", ".join(measured) or "None measured."}{on}

## License

{_lines("- ", licenses)}
SHA-256 of the weights: `{config.data_sha256}`
"""


def _lines(bullet: str, texts: list[str]) -> str:
    return "".join(f"{bullet}{text}\n" for text in texts)


def inline(text: str) -> str:
    """Escape a text for a line of Markdown, so that it is never read as HTML, a link or emphasis."""
    return re.sub(r"([\\`*_{}\[\]|~#!$])", r"\\\1", html.escape(text, quote=False))
