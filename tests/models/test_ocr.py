"""OCRNet's head against the recorded reference, in half precision, and in training."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import SPECS, HRNetSpec
from hrnet_zoo.models.ocr import attention, class_features
from hrnet_zoo.weights.convert import network_shapes
from hrnet_zoo.zoo.catalog import PUBLISHED_ARCHS
from hrnet_zoo.zoo.create import create_model, initialize

GOLDEN = "golden_ocrnet/ocrnet_hr18s_512x512_40k_voc12aug_standin-6b38f19f.pth"


@pytest.mark.parametrize("arch", PUBLISHED_ARCHS)
def test_names_and_shapes_are_the_published_ones(arch: str, shared: Path) -> None:
    published = json.loads((shared / f"facts/state_dict_ocrnet_{arch}_19_classes_head.json").read_text())
    found = {name: list(shape) for name, shape in network_shapes(arch, 19, "OCRNet").items()}
    assert {name: shape for name, shape in found.items() if name.startswith("decode_head.")} == published
    fcn = network_shapes(arch, 19)
    assert {name for name in found if name.startswith("backbone.")} == {name for name in fcn if "backbone" in name}


@pytest.mark.parametrize(("arch", "entries"), [("hr18s", 922), ("hr18", 1888), ("hr48", 1888)])
def test_number_of_entries(arch: str, entries: int) -> None:
    shapes = network_shapes(arch, 19, "OCRNet")
    assert len(shapes) == entries
    assert len([name for name in shapes if name.startswith("decode_head.")]) == 58


@pytest.fixture(scope="module")
def golden(shared: Path) -> FCNHRNet:
    return create_model("ocrnet_hr18s_voc12aug_40k", checkpoint=shared / GOLDEN, device="cpu")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", ["33x65", "64x128", "97x131"])
def test_logits_of_the_reference(size: str, layout: torch.memory_format, golden: FCNHRNet, shared: Path) -> None:
    recorded = load_file(shared / "golden_ocrnet/expected.safetensors")
    x = recorded[f"tensor_{size}.input"].to(memory_format=layout)
    with torch.inference_mode():
        found = golden.decode_head.both_logits(golden.backbone(x))
        assert torch.equal(golden.logits_stride4(x), found[1].permute(0, 2, 3, 1))
        assert [each.shape for each in golden.heads_logits(x)] == 2 * [(1, 21, *x.shape[-2:])]
    for logits, name in zip(found, ("head0_stride4", "logits_stride4"), strict=True):
        expected = recorded[f"tensor_{size}.{name}"]
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_mask_of_the_reference(golden: FCNHRNet, shared: Path) -> None:
    """tests/slow/test_ocrnet.py compares them all."""
    recorded = load_file(shared / "golden_ocrnet/expected.safetensors")
    mask = golden.predict(shared / "pictures/color.jpg").mask
    differ = mask != recorded["color.jpg.whole.mask"].numpy()
    assert not (differ & (recorded["color.jpg.whole.margin"].numpy() > 0.01)).any()


def tiny(monkeypatch: pytest.MonkeyPatch) -> FCNHRNet:
    """Make a network with every kind of layer, and few of each."""
    torch.manual_seed(0)
    monkeypatch.setitem(SPECS, "tiny", HRNetSpec(width=18, blocks=1, modules=(1, 1, 1)))
    model = FCNHRNet("tiny", CITYSCAPES, method="OCRNet")
    initialize(model)
    return model.eval()


def test_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(monkeypatch)
    with torch.inference_mode():
        for height in (1, 32, 61):
            assert model(torch.rand(2, 3, height, 47)).shape == (2, 19, height, 47)


def test_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(monkeypatch).train()
    x, truth = torch.randn(2, 3, 32, 32), torch.randint(0, 19, (2, 32, 32))
    for logits in model.heads_logits(x):
        torch.nn.functional.cross_entropy(logits, truth).backward(retain_graph=True)  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("automatic", [False, True])
def test_half_precision_of_large_images(dtype: torch.dtype, automatic: bool) -> None:
    """A softmax over positions has values of a hundred thousandth, of which float16 keeps a few bits."""
    chance = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 4, 250, 400, generator=chance) + 1
    regions = torch.randn(1, 3, 250, 400, generator=chance)
    query, key, value = (10 * torch.randn(1, 4, *size, generator=chance) for size in ((250, 400), (3, 1), (3, 1)))
    expected = class_features(pixels, regions), attention(query, key, value)
    with torch.autocast("cpu", dtype=dtype, enabled=automatic):
        kept = pixels.dtype if automatic else dtype
        pixels, regions, query, key, value = (each.to(kept) for each in (pixels, regions, query, key, value))
        found = class_features(pixels, regions), attention(query, key, value)
    eps = torch.finfo(dtype).eps
    assert float((found[0].float() / expected[0] - 1).abs().max()) < 2 * eps
    assert float((found[1].float() - expected[1]).abs().mean()) < 8 * eps * float(expected[1].abs().max())


def test_other_classes_go_into_both_heads(tmp_path: Path) -> None:
    """Rows of known classes are copied, whatever file the weights come from."""
    source = create_model("ocrnet_hr18s_voc12aug_20k", pretrained=False, device="cpu")
    with torch.no_grad():
        for classifier in source.classifiers.values():
            classifier.weight.normal_()
            classifier.bias.normal_()  # type: ignore[union-attr]
    folder = source.save_pretrained(tmp_path / "ocrnet")
    same = create_model(folder, device="cpu")
    assert same.method == "OCRNet"
    x = torch.rand(1, 3, 33, 47)
    with torch.inference_mode():
        assert torch.equal(source(x), same(x))
    model = create_model(folder, classes=["background", "crack", "car"], device="cpu")
    old, new = (copy.deepcopy(each.classifiers) for each in (source, model))
    assert [*new] == ["decode_head.0.conv_seg", "decode_head.1.conv_seg"] == [*old]
    for name, classifier in new.items():
        for place, known in ((0, 0), (2, source.classes.index("car"))):
            assert torch.equal(classifier.weight[place], old[name].weight[known])
            assert classifier.bias is not None
            assert classifier.bias[place] == old[name].bias[known]  # type: ignore[index]
        assert not any(torch.equal(classifier.weight[1], row) for row in old[name].weight)
