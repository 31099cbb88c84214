"""A file says what a runner must know."""

import json

import pytest

from hrnet_zoo.datasets import PASCAL_CONTEXT
from hrnet_zoo.exporting.metadata import describe
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.skip_init import skip_init
from hrnet_zoo.zoo.catalog import model_info
from hrnet_zoo.zoo.create import create_model


def test_every_fact() -> None:
    demo = create_model("demo", device="cpu")
    facts = describe(
        demo,
        file_format="onnx",
        outputs="labels",
        precision="fp16",
        opset=20,
        weights_sha256="ab" * 32,
        license_note="Apache-2.0",
        untrained_classes=["sky"],
    )
    assert json.loads(json.dumps(facts)) == facts
    assert facts["classes"] == list(demo.classes)
    assert facts["palette"] == [list(color) for color in demo.palette]
    assert facts["resize_to"] == [768, 384]
    assert facts["sliding_window"] is None
    assert facts["mean"] == [123.675, 116.28, 103.53]
    assert facts["source_sha256"] == demo.provenance["source_sha256"]
    assert facts["untrained_classes"] == ["sky"]
    told = {"library": "hrnet-zoo", "name": "demo", "outputs": "labels", "precision": "fp16", "opset": 20}
    told |= {"color_order": "RGB", "ignore_label": 255, "least_size": 33, "logits_stride": 4}
    assert told.items() <= facts.items()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("local-dir:/home/jane/cracks", "cracks"),
        ("local-dir:C:\\\\jane\\\\cracks", "cracks"),
        ("hf-hub:org/cracks", "cracks"),
        ("local-dir:/home/jane/", "hr18s"),
        ("fcn_hr18s_cityscapes_160k", "fcn_hr18s_cityscapes_160k"),
    ],
)
def test_no_folder_of_the_machine_is_told(name: str, told: str) -> None:
    demo = create_model("demo", device="cpu")
    demo.name = name
    facts = describe(
        demo,
        file_format="onnx",
        outputs="labels",
        precision="fp32",
        opset=20,
        weights_sha256="",
        license_note="",
        untrained_classes=[],
    )
    assert facts["name"] == told
    assert "jane" not in json.dumps(facts)


def test_sliding_window() -> None:
    info = model_info("fcn_hr48_pascal_context_80k")
    with skip_init():
        network = FCNHRNet("hr48", PASCAL_CONTEXT, info)
    facts = describe(
        network,
        file_format="pt2",
        outputs="logits",
        precision="fp32",
        opset=None,
        weights_sha256="",
        license_note="",
        untrained_classes=[],
    )
    assert facts["sliding_window"] == {"size": 480, "stride": 320}
    assert facts["source_sha256"] is None
    assert len(facts["classes"]) == 60
