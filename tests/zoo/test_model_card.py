"""The card's metadata is what the Hub reads, whatever stands in names."""

from dataclasses import replace

import pytest
import yaml  # type: ignore[import-untyped]
from huggingface_hub import ModelCard, ModelCardData

from hrnet_zoo.zoo.catalog import model_info
from hrnet_zoo.zoo.model_card import inline, model_card
from hrnet_zoo.zoo.model_config import Metrics, Parent
from tests.zoo.test_model_config import CONFIG, SHA


def test_metadata_as_the_hub_reads_it() -> None:
    data = ModelCard(model_card(replace(CONFIG, parent=Parent(f"hf-hub:lab/street@{'a' * 40}")))).data
    assert isinstance(data, ModelCardData)
    assert data.eval_results is not None
    assert data.library_name == "hrnet-zoo"
    assert data.pipeline_tag == "image-segmentation"
    assert data.license == "apache-2.0"
    assert data.base_model == "lab/street"
    (miou, macc) = data.eval_results
    assert (miou.metric_type, miou.metric_value, miou.dataset_name) == ("mean_iou", 80.5, "my street, val")
    assert (macc.metric_type, macc.metric_value) == ("mean_accuracy", 90)


def test_metadata_holds_only_what_is_known() -> None:
    _, front, _ = model_card(replace(CONFIG, metrics=Metrics())).split("---\n", 2)
    assert sorted(yaml.safe_load(front)) == ["library_name", "license", "pipeline_tag", "tags"]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "---", "a: b #c", "![x](http://y)", "a|b", "*&!%@`", "😀 ä"]
)
def test_names_stay_names(name: str) -> None:
    dataset = replace(CONFIG.dataset.with_classes([name, "road"]), title=name)
    text = model_card(replace(CONFIG, dataset=dataset, license=name, metrics=Metrics(miou=1, data=name)))
    _, front, body = text.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["license"] == name
    assert facts["model-index"][0]["results"][0]["dataset"]["name"] == name
    assert f"| 0 | {inline(name)} | `#e69f00` (230, 159, 0) |" in body
    assert "<script" not in body
    assert "![" not in body


def test_body_says_how_it_was_made() -> None:
    body = model_card(CONFIG)
    for words in (
        "# FCN HRNetV2p-W18-Small, 2 classes",
        f"Started from: demo, file fcn\\_hr18s\\_demo-afdf456c.pth, SHA-256 `{SHA}`",
        "mIoU 80.50 %, mAcc 90.00 % on my street, val",
        "Optimizer steps: 300",
        'create_model("hf-hub:ORG/NAME")',
        model_info("demo").license_note,
    ):
        assert words in body, words
    assert "random weights" in model_card(replace(CONFIG, parent=None))


def test_the_terms_behind_the_parent_are_told() -> None:
    parent = Parent("fcn_hr18s_cityscapes_40k")
    assert "Cityscapes: non-commercial use only" in model_card(replace(CONFIG, parent=parent))


def test_other_bands_are_named() -> None:
    data = CONFIG.dataset.with_bands(["nir", "a|b"], [1024.5, 3], [100, 0.125])
    text = model_card(replace(CONFIG, dataset=data))
    assert (
        "whole, as bands in the values of their files: nir (mean 1024.5, standard deviation 100), a\\|b (mean 3" in text
    )
