"""A configuration is read back as it was written, and nothing else is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hrnet_zoo.datasets import PASCAL_CONTEXT, SCENES
from hrnet_zoo.errors import ModelConfigError
from hrnet_zoo.images import read as images
from hrnet_zoo.zoo import model_config
from hrnet_zoo.zoo.catalog import model_info
from hrnet_zoo.zoo.model_config import Metrics, ModelConfig, Parent, checked, parse_config, read_config

SHA = "0123456789abcdef" * 4
CONFIG = ModelConfig(
    arch="hr18s",
    dataset=replace(SCENES.with_classes(["road", "any other"]), title="my street"),
    data_sha256=SHA,
    license="apache-2.0",
    parent=Parent("demo", "fcn_hr18s_demo-afdf456c.pth", SHA, None),
    metrics=Metrics(miou=80.5, macc=90, data="my street, val", steps=300),
)


def test_the_constants_are_those_of_the_computation() -> None:
    assert (model_config.MEAN, model_config.STD) == (images.MEAN, images.STD)


def test_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(CONFIG.to_json(), encoding="utf-8")
    assert read_config(path) == CONFIG
    assert parse_config(CONFIG.to_header(), "", SHA) == CONFIG
    assert CONFIG.dataset.window == (256, 170)


@pytest.mark.parametrize("name", ["fcn_hr48_ade20k_160k", "fcn_hr48_pascal_context_80k", "fcn_hr18_voc12aug_20k"])
def test_every_data_set_passes(name: str) -> None:
    data = model_info(name).dataset
    labels = tuple(zip(data.classes, data.palette, strict=True))
    config = ModelConfig("hr48", replace(data, labels=labels), SHA, "apache-2.0")
    assert checked(config, "").dataset.classes == data.classes
    assert checked(config, "").dataset.sliding_window is (data is PASCAL_CONTEXT)


def test_the_schema_is_version_2() -> None:
    """Whoever changes what is written raises SCHEMA, and keeps reading what was written before."""
    content = json.loads(CONFIG.to_json())
    assert {key: sorted(value) if isinstance(value, dict) else value for key, value in content.items()} == {
        "schema": 2,
        "library": "hrnet-zoo",
        "arch": "hr18s",
        "classes": [{"name": "road", "color": [128, 64, 128]}, {"name": "any other", "color": [230, 159, 0]}],
        "labels": "the value is the class, 255 is ignored",
        "input": ["crop", "mean", "resize_to", "sliding_window", "std", "window"],
        "data": ["key", "batch_per_gpu", "data_license", "title"],
        "parent": ["data_sha256", "file", "name", "source_sha256"],
        "metrics": ["aacc", "data", "macc", "miou", "steps"],
        "license": "apache-2.0",
        "data_sha256": SHA,
    }


def put(*place: str | int, value: object) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for step in place[:-1]:
            content = content[step]
        content[place[-1]] = value

    return change


def drop(*place: str | int) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for step in place[:-1]:
            content = content[step]
        del content[place[-1]]

    return change


ONE = {"name": "x", "color": [1, 2, 3]}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (drop("arch"), "$.arch"),
        (drop("metrics", "miou"), "$.metrics.miou"),
        (drop("data_sha256"), "$.data_sha256"),
        (put("auto_map", value={"AutoModel": "code.py"}), "$"),
        (put("input", "resize", value="nearest"), "$.input"),
        (put("schema", value=3), "$.schema"),
        (put("schema", value=True), "$.schema"),
        (put("schema", value="1"), "$.schema"),
        (put("library", value="timm"), "$.library"),
        (put("arch", value="hr32"), "$.arch"),
        (put("arch", value=["hr18"]), "$.arch"),
        (put("classes", value=10**9), "$.classes"),
        (put("classes", value=[ONE]), "$.classes"),
        (put("classes", value=[{**ONE, "name": str(i)} for i in range(256)]), "$.classes"),
        (put("classes", value={}), "$.classes"),
        (put("classes", 1, value="road"), "$.classes[1]"),
        (put("classes", 1, "name", value="road"), "$.classes[1].name"),
        (put("classes", 1, "name", value=""), "$.classes[1].name"),
        (put("classes", 1, "name", value="a\nb"), "$.classes[1].name"),
        (put("classes", 1, "name", value="x" * 101), "$.classes[1].name"),
        (put("classes", 1, "name", value=None), "$.classes[1].name"),
        (put("classes", 0, "color", value=[0, 0, 256]), "$.classes[0].color[2]"),
        (put("classes", 0, "color", value=[0, 0.5, 0]), "$.classes[0].color[1]"),
        (put("classes", 0, "color", value=[0, 0]), "$.classes[0].color"),
        (put("labels", value="0 is ignored"), "$.labels"),
        (put("input", "resize_to", value=[384, 768]), "$.input.resize_to"),
        (put("input", "resize_to", value=[768, 10**9]), "$.input.resize_to[1]"),
        (put("input", "resize_to", value=[768]), "$.input.resize_to"),
        (put("input", "crop", value=[0, 256]), "$.input.crop[0]"),
        (put("input", "crop", value="256x256"), "$.input.crop"),
        (put("input", "sliding_window", value=1), "$.input.sliding_window"),
        (put("input", "window", value=[256, 100]), "$.input.window"),
        (put("input", "mean", value=[0, 0, 0]), "$.input.mean"),
        (put("input", "std", value=[1.0, 1.0, 1.0]), "$.input.std"),
        (put("input", value=None), "$.input"),
        (put("data", "batch_per_gpu", value=0), "$.data.batch_per_gpu"),
        (put("data", "data_license", value="x" * 501), "$.data.data_license"),
        (put("parent", value="demo"), "$.parent"),
        (put("parent", "file", value="../x.pth"), "$.parent.file"),
        (put("parent", "source_sha256", value="abc"), "$.parent.source_sha256"),
        (put("metrics", "miou", value=100.1), "$.metrics.miou"),
        (put("metrics", "miou", value="80"), "$.metrics.miou"),
        (put("metrics", "aacc", value=True), "$.metrics.aacc"),
        (put("metrics", "steps", value=1.5), "$.metrics.steps"),
        (put("metrics", "data", value=7), "$.metrics.data"),
        (put("license", value=""), "$.license"),
        (put("data_sha256", value="z" * 64), "$.data_sha256"),
    ],
)
def test_what_the_schema_does_not_say_is_refused_by_its_place(change: Callable[[Any], None], place: str) -> None:
    content = json.loads(CONFIG.to_json())
    change(content)
    with pytest.raises(ModelConfigError) as caught:
        parse_config(json.dumps(content), "x/config.json")
    assert caught.value.json_path == place
    assert caught.value.exit_code == 4
    assert place in str(caught.value)
    assert "x/config.json" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[" * 5000,
        CONFIG.to_json().replace("80.5", "NaN"),
        CONFIG.to_json().replace("80.5", "1e999"),
        CONFIG.to_json().replace('"arch"', '"arch": "hr48", "arch"'),
        CONFIG.to_json() + " " * (1 << 20),
    ],
)
def test_what_is_no_object_of_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelConfigError) as caught:
        read_config(path)
    assert caught.value.json_path == "$"
    assert "no JSON" in str(caught.value) or "nests too deep" in str(caught.value) or "$: " in str(caught.value)


def test_a_header_does_not_state_its_own_digest() -> None:
    with pytest.raises(ModelConfigError, match="the unknown key 'data_sha256'"):
        parse_config(CONFIG.to_json(), "a.safetensors", SHA)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path, Path("a\0b")):
        with pytest.raises(ModelConfigError, match=r"no readable file|a folder, pipe or device"):
            read_config(path)


def test_what_no_reader_would_take_is_not_written() -> None:
    with pytest.raises(ModelConfigError) as caught:
        checked(replace(CONFIG, dataset=SCENES.with_classes(["road", "a\x00b"])), "")
    assert caught.value.json_path == "$.classes[1].name"
