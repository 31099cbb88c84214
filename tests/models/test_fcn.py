"""The whole network against the recorded reference, and what torch can do with it."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.export import Dim, export

from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import SPECS, HRNetSpec
from hrnet_zoo.weights.convert import network_shapes
from hrnet_zoo.zoo.catalog import PUBLISHED_ARCHS
from hrnet_zoo.zoo.create import create_model, initialize

GOLDEN = "golden/fcn_hr18s_512x1024_40k_cityscapes_standin-289f364f.pth"


@pytest.mark.parametrize("arch", PUBLISHED_ARCHS)
def test_names_and_shapes_are_the_published_ones(arch: str, shared: Path) -> None:
    published = json.loads((shared / f"facts/state_dict_{arch}_19_classes.json").read_text())
    assert {name: list(shape) for name, shape in network_shapes(arch, 19).items()} == published


@pytest.mark.parametrize(
    ("arch", "number", "digest"),
    [
        ("hr18s", 872, "dc49550057813f499a2592822f1213b79c4b0c1fa01e96dc9033e53a43a77085"),
        ("hr18", 1838, "b9881d7f540247f34830c3773c6b0d1e442a7b685158fe4d90b36a90e5f4952b"),
        ("hr32", 1838, "9ab080f0126299f0fa37de0c0ece0adfaa0a5f124bf5ac4e1ff2fb09bfbc9b4f"),
        ("hr40", 1838, "08db8e60649295064645ff6e5badcd5a78cac6282d078d496814bf2a1f6736bd"),
        ("hr48", 1838, "6790f18b9708ef9a8e3cca40b9b3a4d8754b172dec913e571fc2b21caa664609"),
    ],
)
def test_names_and_shapes_by_their_digest(arch: str, number: int, digest: str) -> None:
    """Compare with the digest of the published names and shapes, "name [shape]" a line, sorted."""
    listed = network_shapes(arch, 19)
    assert len(listed) == number
    text = "".join(f"{name} {list(shape)}\n" for name, shape in sorted(listed.items()))
    assert hashlib.sha256(text.encode()).hexdigest() == digest


@pytest.fixture(scope="module")
def golden(shared: Path) -> FCNHRNet:
    return create_model("fcn_hr18s_cityscapes_40k", checkpoint=shared / GOLDEN, device="cpu")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", ["33x65", "64x128", "97x131"])
def test_features_and_logits_of_the_reference(
    size: str, layout: torch.memory_format, golden: FCNHRNet, shared: Path
) -> None:
    recorded = load_file(shared / "golden/expected.safetensors")
    x = recorded[f"tensor_{size}.input"].to(memory_format=layout)
    with torch.inference_mode():
        maps = golden.backbone(x)
        logits = golden.decode_head(maps)
        assert golden(x).shape == (1, 19, *x.shape[-2:])
    for index, found in enumerate([*maps, logits]):
        key = f"tensor_{size}.feature{index}" if index < 4 else f"tensor_{size}.scores_stride4"
        torch.testing.assert_close(found, recorded[key], rtol=0, atol=1e-5 * float(recorded[key].abs().max()))


@pytest.fixture
def small() -> FCNHRNet:
    torch.manual_seed(0)
    model = FCNHRNet("hr18s", CITYSCAPES)
    initialize(model)
    return model.eval()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> FCNHRNet:
    """Make a network with every kind of layer, and few of each: capturing it takes a tenth of the time.

    It has OCRNet's two heads, of which the first is the FCN head.
    """
    torch.manual_seed(0)
    monkeypatch.setitem(SPECS, "tiny", HRNetSpec(width=18, blocks=1, modules=(1, 1, 1)))
    model = FCNHRNet("tiny", CITYSCAPES, method="OCRNet")
    initialize(model)
    return model.eval()


@pytest.mark.parametrize("height", [1, 32, 61])
def test_any_size(small: FCNHRNet, height: int) -> None:
    with torch.inference_mode():
        assert small(torch.rand(2, 3, height, 47)).shape == (2, 19, height, 47)


def test_trains(tiny: FCNHRNet) -> None:
    tiny.train()
    optimizer = torch.optim.SGD(tiny.parameters(), lr=0.1, momentum=0.9)
    x, truth = torch.randn(2, 3, 32, 32), torch.randint(0, 19, (2, 32, 32))
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(tiny(x), truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is not None for parameter in tiny.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_exports_with_free_height_and_width(tiny: FCNHRNet) -> None:
    exported = export(tiny, (torch.randn(1, 3, 64, 96),), dynamic_shapes=({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)).module()
    for size in ((33, 65), (97, 131), (128, 64)):
        x = torch.randn(1, 3, *size)
        with torch.inference_mode():
            torch.testing.assert_close(exported(x), tiny(x), rtol=0, atol=1e-6)


def test_compiles_without_a_break(tiny: FCNHRNet) -> None:
    # "eager" runs the captured graph as it is: this test is about capturing, not about a compiler being installed.
    compiled = torch.compile(tiny, fullgraph=True, backend="eager")
    x = torch.randn(1, 3, 33, 65)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), tiny(x), rtol=0, atol=1e-6)
