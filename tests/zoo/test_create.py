"""A name becomes a network: weights in, classifier swapped by name, devices and dtypes, bad arguments."""

import copy
import csv
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import hrnet_zoo
from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.errors import ConfigError, OfflineError, StateDictMismatchError, UnknownModelError
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.weights.convert import read_checkpoint
from hrnet_zoo.zoo.catalog import ModelInfo, model_info
from hrnet_zoo.zoo.create import create_model
from tests.support.checkpoints import legacy

NAME = "fcn_hr18s_cityscapes_40k"
HEAD = "decode_head.conv_seg"


def serve(info: ModelInfo, content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder the mirror in which this is the published file of the only row."""
    info = dataclasses.replace(info, sha256_prefix=hashlib.sha256(content).hexdigest()[:8])
    monkeypatch.setattr("hrnet_zoo.zoo.resolve.model_info", lambda _: info)
    path = folder / info.checkpoint_url.removeprefix("https://download.openmmlab.com/")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", folder.as_uri())


@pytest.fixture
def published(hr18s: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Make a folder the mirror in which the stand-in is the published file; return what is in it."""
    serve(model_info(NAME), hr18s, tmp_path / "mirror", monkeypatch)
    return read_checkpoint(hr18s, "").state


def test_published_weights(published: dict[str, torch.Tensor]) -> None:
    model = create_model(NAME, device="cpu")
    assert not model.training
    assert all(torch.equal(entry, published[name]) for name, entry in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert model.info is not None
    assert model.info.name == NAME
    assert model.classes[0] == "road"
    assert model.palette[0] == (128, 64, 128)
    assert model.dataset.resize_to == (2048, 1024)
    assert len(model.provenance["source_sha256"]) == 64


def test_writing_to_the_weights_does_not_alter_the_cache(published: dict[str, torch.Tensor]) -> None:
    model = create_model(NAME, device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    again = create_model(NAME, device="cpu").state_dict()
    assert torch.equal(again["backbone.conv1.weight"], published["backbone.conv1.weight"])


@pytest.mark.usefixtures("published")
def test_the_network_is_like_any_other() -> None:
    """Made around the file's pages, it is what building, loading and calling eval() would have made."""
    model = create_model(NAME, device="cpu")
    plain = FCNHRNet(model.arch, model.dataset, model.info).eval()
    plain.load_state_dict(model.state_dict(), strict=True)
    for ours, theirs in (
        (model.named_parameters(), plain.named_parameters()),
        (model.named_buffers(), plain.named_buffers()),
    ):
        for (name, one), (other_name, other) in zip(ours, theirs, strict=True):
            assert name == other_name
            assert (type(one), one.requires_grad, one.is_leaf) == (type(other), other.requires_grad, other.is_leaf)
            assert one.is_contiguous()
    x = torch.rand(1, 3, 33, 65)
    with torch.inference_mode():
        scores = plain(x)
        twin = copy.deepcopy(model)
        assert torch.equal(model(x), scores)
        assert torch.equal(twin(x), scores)
        assert torch.equal(twin.to(torch.float64).to(torch.float32)(x), scores)
    assert len({entry.untyped_storage().data_ptr() for entry in model.state_dict().values()}) == len(plain.state_dict())


def test_it_trains(published: dict[str, torch.Tensor]) -> None:
    model = create_model(NAME, device="cpu").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    trained, name = model.state_dict(), "backbone.conv1.weight"
    assert not torch.equal(trained[name], published[name])
    assert int(trained["backbone.bn1.num_batches_tracked"]) == 1
    assert all(
        torch.equal(entry, published[key]) for key, entry in create_model(NAME, device="cpu").state_dict().items()
    )


@pytest.mark.usefixtures("published")
def test_a_warm_call_takes_no_lock_and_opens_only_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    create_model(NAME, device="cpu")
    opened: list[str] = []

    def watch(event: str, args: tuple[object, ...]) -> None:
        if watching and event in ("open", "socket.__new__", "os.mkdir", "os.rename", "os.remove"):
            opened.append(f"{event} {Path(str(args[0])).name} {args[1] if event == 'open' else ''}")

    watching = True
    sys.addaudithook(watch)
    create_model(NAME, device="cpu")
    watching = False
    assert {line.split("-")[0] for line in opened} == {"open fcn_hr18s_512x1024_40k_cityscapes_20200601_014216"}
    assert [line.split(".")[-1].rstrip("b") for line in opened] == ["safetensors r"]


def test_classifier_rows_are_copied_by_name(
    published: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    model = create_model(NAME, classes=["sky", "solar panel", "road"], device="cpu")
    assert model.classes == ("sky", "solar panel", "road")
    state = model.state_dict()
    for name in ("weight", "bias"):
        assert torch.equal(state[f"{HEAD}.{name}"][0], published[f"{HEAD}.{name}"][10])
        assert torch.equal(state[f"{HEAD}.{name}"][2], published[f"{HEAD}.{name}"][0])
    assert state[f"{HEAD}.weight"][1].abs().sum() > 0
    (line,) = caplog.messages
    assert "decode_head.conv_seg.weight and decode_head.conv_seg.bias for 3 classes" in line
    assert "copied by name: sky, road; random rows, to be trained: solar panel" in line
    assert torch.equal(state["backbone.conv1.weight"], published["backbone.conv1.weight"])


@pytest.mark.usefixtures("published")
def test_classes_by_number() -> None:
    model = create_model(NAME, classes=4, device="cpu")
    assert model.classes == ("class 0", "class 1", "class 2", "class 3")
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 4, 32, 32)


def test_own_checkpoint_with_other_classes(published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    for name in ("weight", "bias"):
        published[f"{HEAD}.{name}"] = published[f"{HEAD}.{name}"][:2].clone()
    path = tmp_path / "two.pth"
    path.write_bytes(legacy(published))
    model = create_model(NAME, checkpoint=path, classes=["cat", "dog"], device="cpu")
    assert model.classes == ("cat", "dog")
    assert torch.equal(model.state_dict()[f"{HEAD}.weight"], published[f"{HEAD}.weight"])
    with pytest.raises(StateDictMismatchError, match=r"\(2, [\s\S]*and its classes="):
        create_model(NAME, checkpoint=path, device="cpu")


def test_own_checkpoint_with_a_miscounted_list_is_refused(published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "nineteen.pth"
    path.write_bytes(legacy(published))
    with pytest.raises(StateDictMismatchError, match=r"\(19, [\s\S]*expected \(2, "):
        create_model(NAME, checkpoint=path, classes=["person", "tree"], device="cpu")


# --- names that the file disagrees about ---------------------------------------------------------------------------


def with_rows(state: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """Give a state dict a classifier of so many classes."""
    rows = torch.arange(count) % len(state[f"{HEAD}.bias"])
    return {**state, **{f"{HEAD}.{name}": state[f"{HEAD}.{name}"][rows] for name in ("weight", "bias")}}


def test_names_of_mmengine_are_compared_too(hr18s: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    swapped = ("sidewalk", "road", *CITYSCAPES.classes[2:])
    state = read_checkpoint(hr18s, "").state
    (tmp_path / "mine.pth").write_bytes(legacy(state, {"dataset_meta": {"classes": swapped}}))
    create_model("fcn_hr18s_cityscapes_40k", checkpoint=tmp_path / "mine.pth", device="cpu")
    (line,) = caplog.messages
    assert "2 of 19 differ (0 is 'sidewalk' in the file and 'road' here, 1 is 'road' in the file" in line


def test_pascal_context_is_labeled_by_the_data_set(
    hr18s: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stand-in with the names in a VOC-like order, as the two published files very probably have them."""
    with (Path(hrnet_zoo.__file__).parent / "datasets" / "pascal_context.csv").open(encoding="utf-8") as file:
        corrected = tuple(row["name"] for row in csv.DictReader(file))
    things = model_info("fcn_hr48_voc12aug_40k").classes
    claimed = (*things, *(name for name in corrected if name not in things))[:60]
    state = with_rows(read_checkpoint(hr18s, "").state, 60)
    row = dataclasses.replace(model_info("fcn_hr48_pascal_context_40k"), arch="hr18s")
    serve(row, legacy(state, {"CLASSES": claimed}), tmp_path / "mirror", monkeypatch)
    model = create_model("fcn_hr48_pascal_context_40k", device="cpu")
    assert model.classes == corrected
    different = sum(a.replace(" ", "") != b.replace(" ", "") for a, b in zip(claimed, corrected, strict=True))
    assert different > 40
    (line,) = caplog.messages
    assert (
        f"disagrees about the names of its classes: {different} of 60 differ (2 is 'bicycle' in the file and " in line
    )
    assert line.count(" in the file and ") == 3
    assert [record.name for record in caplog.records] == ["hrnet_zoo"]
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", (tmp_path / "gone").as_uri())
    assert create_model("fcn_hr48_pascal_context_40k", device="cpu").classes == corrected
    assert caplog.messages == [line, line]  # from the warm cache too
    caplog.clear()
    create_model("fcn_hr48_pascal_context_40k", False, device="cpu")
    create_model("fcn_hr48_pascal_context_40k", classes=["a", "b"], device="cpu")
    assert not [message for message in caplog.messages if "disagrees" in message]


@pytest.mark.parametrize(
    "claimed",
    [
        [name.upper().replace(" ", "_") for name in CITYSCAPES.classes],
        None,
    ],
)
def test_names_that_agree_or_are_absent_are_no_news(
    claimed: list[str] | None,
    hr18s: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = legacy(read_checkpoint(hr18s, "").state, {"CLASSES": claimed})
    serve(model_info(NAME), content, tmp_path / "mirror", monkeypatch)
    create_model(NAME, device="cpu")
    assert caplog.messages == []


@pytest.mark.usefixtures("published")
def test_names_of_another_number(caplog: pytest.LogCaptureFixture) -> None:
    """The stand-in names the first three of its 19 classes."""
    create_model(NAME, device="cpu")
    (line,) = caplog.messages
    assert "16 of 19 differ (3 is None in the file and 'wall' here, " in line
    assert line.endswith(", ...); those here are used")


def test_own_checkpoint_against_the_classes_given(
    published: dict[str, torch.Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "two.pth"
    path.write_bytes(legacy(with_rows(published, 2), {"CLASSES": ["cat", "d\x1bog"]}))
    model = create_model(NAME, checkpoint=path, classes=["dog", "Cat"], device="cpu")
    assert model.classes == ("dog", "Cat")
    assert caplog.messages == [
        f"{path} disagrees about the names of its classes: 2 of 2 differ (0 is 'cat' in the file and 'dog' here, "
        r"1 is 'd\x1bog' in the file and 'Cat' here); those here are used"
    ]
    caplog.clear()
    create_model(NAME, checkpoint=path, classes=["CAT", "d[]og"], device="cpu")
    create_model(NAME, checkpoint=path, classes=2, device="cpu")
    assert caplog.messages == []


def test_own_checkpoint_against_the_data_set(
    published: dict[str, torch.Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "swapped.pth"
    names = list(CITYSCAPES.classes)
    names[0], names[1] = names[1], names[0]
    path.write_bytes(legacy(published, {"CLASSES": names}))
    assert create_model(NAME, checkpoint=path, device="cpu").classes == CITYSCAPES.classes
    (line,) = caplog.messages
    assert "2 of 19 differ (0 is 'sidewalk' in the file and 'road' here, " in line
    assert line.endswith("; those here are used")
    save_file(published, tmp_path / "swapped.safetensors", {"file_classes": json.dumps(names)})
    create_model(NAME, checkpoint=tmp_path / "swapped.safetensors", device="cpu")
    assert caplog.messages[1:] == [line.replace("swapped.pth", "swapped.safetensors")]


def test_the_demo_agrees(caplog: pytest.LogCaptureFixture) -> None:
    create_model("demo", device="cpu")
    assert caplog.messages == []


def test_random_weights_are_seeded_and_never_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = create_model(NAME, pretrained=False, device="cpu")
        assert not model.training
        return model.backbone.conv1.weight.detach()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError):
        create_model(NAME, device="cpu")


def test_every_row_can_be_built_at_random() -> None:
    """One row of each network and number of classes."""
    for name in ("fcn_hr18s_voc12aug_20k", "fcn_hr18_ade20k_80k"):
        with torch.inference_mode():
            scores = create_model(name, pretrained=False, device="cpu")(torch.rand(1, 3, 40, 56))
        assert scores.shape == (1, model_info(name).num_classes, 40, 56)
        assert scores.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.usefixtures("published")
def test_dtype(dtype: torch.dtype) -> None:
    model = create_model(NAME, device="cpu", dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model.backbone.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert int(model.backbone.bn1.num_batches_tracked or 0) == 0


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: create_model("fcn_hr48_cityscape_160k"), UnknownModelError, "fcn_hr48_cityscapes_160k"),
        (lambda: create_model(NAME, device="gpu"), ConfigError, "devices here: cpu"),
        (lambda: create_model(NAME, device="cuda:99"), ConfigError, "cuda:99"),
        (lambda: create_model(NAME, device="meta"), ConfigError, "meta"),
        (lambda: create_model(NAME, device=object()), ConfigError, "devices here: cpu"),  # type: ignore[arg-type]
        (lambda: create_model(5), UnknownModelError, "5"),  # type: ignore[arg-type]
        (lambda: create_model(NAME, classes=3.5), ConfigError, "from 2 to 255"),  # type: ignore[arg-type]
        (lambda: create_model(NAME, dtype=torch.int8), ConfigError, "torch.int8"),
        (lambda: create_model(NAME, dtype="int8"), ConfigError, "torch.float16, torch.bfloat16"),
        (lambda: create_model(NAME, dtype="nn"), ConfigError, "torch.float16, torch.bfloat16"),
        (lambda: create_model(NAME, "x.pth"), ConfigError, "use checkpoint="),
        (lambda: create_model(NAME, num_classes=3), ConfigError, "use classes="),  # type: ignore[arg-type]
        (lambda: create_model(NAME, color=3), ConfigError, "has no argument color"),  # type: ignore[arg-type]
        (lambda: create_model("x.pth"), UnknownModelError, "checkpoint='x.pth'"),
        (lambda: create_model(NAME, classes=1), ConfigError, "add a background class"),
        (lambda: create_model(NAME, classes=10**9), ConfigError, "from 2 to 255"),
        (lambda: create_model(NAME, classes=["a", "a"]), ConfigError, "different names"),
        (lambda: create_model(NAME, classes=["a", ""]), ConfigError, "different names"),
        (lambda: create_model(NAME, classes="road"), ConfigError, "different names"),
        (lambda: create_model(NAME, False, checkpoint="x.pth"), ConfigError, "only True goes with a checkpoint"),
    ],
)
def test_bad_arguments(call: Callable[[], object], error: type[Exception], text: str, cache: Path) -> None:
    with pytest.raises(error, match=text):
        call()
    assert not cache.exists()


def test_a_dtype_by_name() -> None:
    for text, dtype in (("float16", torch.float16), ("torch.bfloat16", torch.bfloat16), ("half", torch.float16)):
        assert create_model("demo", device="cpu", dtype=text).dtype == dtype


def test_a_image_is_no_input_of_the_network_itself() -> None:
    model = create_model("demo", device="cpu")
    images = ("street.jpg", Path("street.jpg"), np.zeros((8, 8, 3), np.uint8), Image.new("RGB", (8, 8)), [1])
    for image in images:
        with pytest.raises(ConfigError, match=r"model\.predict\(image\)"):
            model(image)
    with pytest.raises(ConfigError, match="use image="):
        model.predict(source="street.jpg")  # type: ignore[call-overload]


def test_is_the_public_function() -> None:
    assert hrnet_zoo.create_model is create_model


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.usefixtures("published")
def test_cuda_defaults() -> None:
    model = create_model(NAME)
    assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.float16, "cuda")}
    assert model.backbone.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert create_model(NAME, dtype=torch.float32).backbone.conv1.weight.dtype == torch.float32


BANDS = ["red", "green", "blue", "NIR"]


def test_new_bands_leave_what_the_network_computes(caplog: pytest.LogCaptureFixture) -> None:
    demo, model = create_model("demo"), create_model("demo", bands=BANDS, mean=[1, 2, 3, 4], std=[1] * 4)
    x = torch.randn(1, 4, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(model(x), demo(x[:, :3]), rtol=1e-4, atol=1e-4)
    assert model.dataset.own_bands == tuple(BANDS)
    assert (model.dataset.mean, model.dataset.std) == ((1, 2, 3, 4), (1, 1, 1, 1))
    assert "filters kept by name: red, green, blue; zeros, to be trained: NIR" in caplog.text


@pytest.mark.parametrize(
    ("bands", "words"),
    [
        (["nir", "Red", "green"], "kept by name: Red, green; filters of blue, in equal shares, added to: nir"),
        (["depth"], "kept by name: none; filters of red + green + blue, in equal shares, added to: depth"),
        (["a", "green", "b", "c"], "kept by name: green; filters of red + blue, in equal shares, added to: a, b, c"),
        (["blue", "red"], "kept by name: blue, red; filters of green, in equal shares, added to: blue, red"),
    ],
)
def test_missing_bands_are_shared_so_that_gray_stays_gray(
    bands: list[str], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    demo, model = create_model("demo"), create_model("demo", bands=bands, mean=[0] * len(bands), std=[1] * len(bands))
    gray = torch.randn(1, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = demo.backbone.conv1(gray.expand(1, 3, 64, 96))
        torch.testing.assert_close(model.backbone.conv1(gray.expand(1, len(bands), 64, 96)), expected)
    assert words in caplog.text


def test_bands_are_told_apart_by_all_of_their_names(tmp_path: Path) -> None:
    old = create_model("demo", bands=["-45°", "+45°"], mean=[0, 0], std=[1, 1])
    with torch.no_grad():
        old.backbone.conv1.weight[:, 1] += 1
    old.save_pretrained(tmp_path)
    new = create_model(tmp_path, bands=["+45°", "-45°"], mean=[0, 0], std=[1, 1])
    torch.testing.assert_close(new.backbone.conv1.weight, old.backbone.conv1.weight.flip(1))


def test_bands_of_a_checkpoint_are_its_own(tmp_path: Path) -> None:
    state = create_model("demo", bands=BANDS, mean=[0] * 4, std=[1] * 4).state_dict()
    state["backbone.conv1.weight"] = torch.ones(64, 4, 3, 3)
    save_file(state, tmp_path / "own.safetensors")
    model = create_model("demo", checkpoint=tmp_path / "own.safetensors", bands=BANDS, mean=[0] * 4, std=[1] * 4)
    assert torch.equal(model.backbone.conv1.weight, torch.ones(64, 4, 3, 3))
    with pytest.raises(StateDictMismatchError, match=r"conv1\.weight"):
        create_model("demo", checkpoint=tmp_path / "own.safetensors")
    random = create_model("demo", pretrained=False, bands=["depth"], mean=[0], std=[1])
    assert random.backbone.conv1.weight.shape == (64, 1, 3, 3)
