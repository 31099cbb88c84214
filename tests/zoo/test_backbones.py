"""Backbones: with ImageNet's weights, out of the files of HRNet's authors, and as a start of trainings."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import hrnet_zoo
from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.errors import ConfigError, HashMismatchError, OfflineError, StateDictMismatchError, UnknownModelError
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import SPECS, HRNet
from hrnet_zoo.weights.convert import backbone_shapes
from hrnet_zoo.weights.state_dict import compare, unwrap_backbone
from hrnet_zoo.zoo.catalog import ARCHS, IMAGENET, ImageNetBackbone
from hrnet_zoo.zoo.create import create_backbone, create_model, initialize
from tests.cli.conftest import Run
from tests.support.checkpoints import saved, stand_in
from tests.support.http_server import FaultServer, whole
from tests.support.training_data import GROUPS, write_own_folder

CLASSES = ["background", "crack"]
X = torch.rand(1, 3, 65, 97, generator=torch.Generator().manual_seed(0))

Shapes = dict[str, tuple[int, ...]]


def norm(name: str, channels: int) -> Shapes:
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{kind}": (channels,) for kind in kinds}, f"{name}.num_batches_tracked": ()}


def conv(name: str, *shape: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": shape, **({f"{name}.bias": shape[:1]} if bias else {})}


def classifier_head(arch: str) -> Shapes:
    """Return what an ImageNet classifier of HRNet has beside its backbone."""
    shapes: Shapes = {}
    for branch, (width, inner) in enumerate(zip(SPECS[arch].widths, (32, 64, 128, 256), strict=True)):
        block = f"incre_modules.{branch}.0"
        sides = ((inner, width, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1))
        for number, side in enumerate(sides, start=1):
            shapes |= conv(f"{block}.conv{number}", *side, bias=False) | norm(f"{block}.bn{number}", side[0])
        shapes |= conv(f"{block}.downsample.0", 4 * inner, width, 1, 1, bias=False)
        shapes |= norm(f"{block}.downsample.1", 4 * inner)
        if branch < 3:
            shapes |= conv(f"downsamp_modules.{branch}.0", 8 * inner, 4 * inner, 3, 3)
            shapes |= norm(f"downsamp_modules.{branch}.1", 8 * inner)
    shapes |= conv("final_layer.0", 2048, 1024, 1, 1) | norm("final_layer.1", 2048)
    return shapes | conv("classifier", 1000, 2048)


def fcn_head(arch: str) -> Shapes:
    """Return the head of `seg_hrnet.py` by HRNet's authors."""
    channels = sum(SPECS[arch].widths)
    first = conv("last_layer.0", channels, channels, 1, 1) | norm("last_layer.1", channels)
    return first | conv("last_layer.3", 19, channels, 1, 1)


def ocr_head(arch: str) -> Shapes:
    """Return the heads of `seg_hrnet_ocr.py` by HRNet's authors, with most of their layers."""
    channels, block = sum(SPECS[arch].widths), "ocr_distri_head.object_context_block"
    shapes = conv("conv3x3_ocr.0", 512, channels, 3, 3) | norm("conv3x3_ocr.1", 512) | conv("cls_head", 19, 512, 1, 1)
    for part in ("f_pixel.0", "f_object.0", "f_down.0"):
        shapes |= conv(f"{block}.{part}", 256, 512, 1, 1, bias=False) | norm(f"{block}.{part[:-1]}1.0", 256)
    shapes |= conv("ocr_distri_head.conv_bn_dropout.0", 512, 1024, 1, 1, bias=False)
    shapes |= conv("aux_head.0", channels, channels, 1, 1) | norm("aux_head.1", channels)
    return shapes | conv("aux_head.3", 19, channels, 1, 1)


@pytest.fixture(scope="module")
def backbone() -> HRNet:
    """Make a W18-Small with weights as after a training."""
    made = create_backbone("hr18s", pretrained=False, device="cpu")
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
    return made


def beside(backbone: HRNet, head: Shapes, prefix: str = "") -> OrderedDict[str, Tensor]:
    """Return a state dict of the backbone and such a head."""
    return OrderedDict((prefix + name, entry) for name, entry in {**backbone.state_dict(), **stand_in(head)}.items())


def same(ours: HRNet, theirs: HRNet) -> bool:
    with torch.inference_mode():
        return all(torch.equal(*pair) for pair in zip(ours(X), theirs(X), strict=True))


def publish(body: bytes, host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve a file as the published classifier with W18-Small, which states its digest."""
    name = f"hrnetv2_w18_small-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    monkeypatch.setitem(IMAGENET, "hr18s", ImageNetBackbone("hr18s", name))
    host.play(f"/pretrain/third_party/{name}", whole(body))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)


@pytest.fixture
def published(backbone: HRNet, host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """Serve a classifier whose head has all its names, and few values."""
    head = {name: (1,) * len(shape) for name, shape in classifier_head("hr18s").items()}
    publish(saved(beside(backbone, head), modern=False), host, monkeypatch)
    return host


def test_the_published_addresses() -> None:
    assert [*IMAGENET] == [*SPECS] == [*ARCHS] == ["hr18s", "hr18", "hr32", "hr40", "hr48"]
    assert IMAGENET["hr32"].checkpoint_url == (
        "https://download.openmmlab.com/pretrain/third_party/hrnetv2_w32-dc9eeb4f.pth"
    )
    digits = [file.stated_sha256 for file in IMAGENET.values()]
    assert digits == ["b5a04e21", "00eb2006", "dc9eeb4f", "ed0b031c", "d2186c55"]


@pytest.mark.parametrize(("modern", "wrapped"), [(False, False), (True, True)])
def test_imagenet_s_weights(
    modern: bool,
    wrapped: bool,
    backbone: HRNet,
    host: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = beside(backbone, classifier_head("hr18s"))
    publish(saved({"state_dict": state, "epoch": 100} if wrapped else state, modern=modern), host, monkeypatch)
    before = torch.get_rng_state()
    model = create_model("hr18s", "imagenet", classes=CLASSES, device="cpu", generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's random numbers change
    assert caplog.messages == [
        f"{IMAGENET['hr18s'].file_name}: left out: classifier, downsamp_modules, final_layer, incre_modules"
    ]
    assert same(model.backbone, backbone)
    fresh = FCNHRNet("hr18s", CITYSCAPES.with_classes(CLASSES)).decode_head
    initialize(fresh, torch.Generator().manual_seed(3))
    assert fresh.state_dict().keys() == model.decode_head.state_dict().keys()
    assert all(torch.equal(entry, model.decode_head.state_dict()[name]) for name, entry in fresh.state_dict().items())
    assert (model.classes, model.name, model.info, model.training) == (tuple(CLASSES), "hr18s", None, False)
    assert "ImageNet" in model.dataset.data_license
    assert same(create_backbone("hr18s", device="cpu"), backbone)
    assert len(host.requests) == 1


@pytest.mark.usefixtures("published")
def test_a_row_s_network_begins_with_imagenet_too(backbone: HRNet) -> None:
    model = create_model("ocrnet_hr18s_cityscapes_40k", pretrained="imagenet", device="cpu")
    assert same(model.backbone, backbone)
    assert (model.method, len(model.classes), model.dataset.crop) == ("OCRNet", 19, (512, 1024))
    with torch.inference_mode():
        assert model(X).isfinite().all()
    pointers = [entry.data_ptr() for entry in model.state_dict().values()]
    assert len({*pointers}) == len(pointers)  # no layers of the new head share values
    assert same(create_backbone("ocrnet_hr18s_cityscapes_40k", "imagenet", device="cpu"), backbone)


@pytest.mark.usefixtures("published")
def test_fine_tuned_from_imagenet(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(capsys)
    monkeypatch.chdir(tmp_path)
    options = ("--steps", "1", "--batch", "2", "--crop", "64x64", "--resize-to", "192x96", "--workers", "0")
    data = write_own_folder(tmp_path / "data", 3)
    run("finetune", "hr18s", "--data", data, "--out", "hr18s", *options, "--val", "0", "--device", "cpu")
    assert "hr18s with ImageNet weights, file hrnetv2\\_w18\\_small-" in Path("hr18s/README.md").read_text()
    model = create_model("hr18s", device="cpu")  # the folder
    assert (model.arch, model.classes) == ("hr18s", tuple(GROUPS))
    assert model.predict(next((data / "images").iterdir())).mask.shape == (96, 192)
    assert same(create_backbone("hr18s", device="cpu"), model.backbone)


def test_commands_of_the_cache(
    published: FaultServer, capsys: pytest.CaptureFixture[str], cache: Path, tmp_path: Path
) -> None:
    run = Run(capsys)
    path = Path(run("download", "hr18s").split()[1])
    assert path.parent.parent.parent == cache
    assert run("verify", "hr18s") == run("verify", "--all") == "hr18s: whole\n"
    assert run("cache", "repair") == "nothing is damaged\n"
    assert path.name in run("cache", "show")
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)
    run("verify", "hr18s", code=4)
    assert "hr18s: was damaged" in run("cache", "repair")
    assert len(published.requests) == 2
    assert run("verify", "--all") == "hr18s: whole\n"
    copy = Path(run("download", "hr18s", "--to", tmp_path / "mirror").split()[1])
    assert copy.relative_to(tmp_path / "mirror").parent == Path("pretrain/third_party")
    assert run("cache", "clear", "hr18s").startswith("removed 1 files")
    assert run("import", copy) == f"hr18s {path}\n"
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    run("import", copy, code=4)
    assert run("cache", "prune").startswith("removed 0 files")
    assert "hr32" not in run("list")


def test_downloads_are_verified(host: FaultServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.play(f"/pretrain/third_party/{IMAGENET['hr18s'].file_name}", whole(saved({}, modern=True)))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    with pytest.raises(HashMismatchError, match=r"expected b5a04e21\.\.\."):
        create_backbone("hr18s", device="cpu")
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    with pytest.raises(OfflineError):
        create_model("hr18s", "imagenet", classes=CLASSES, device="cpu")
    assert not list(cache.rglob("*.safetensors"))


@pytest.mark.parametrize("arch", ARCHS)
def test_names_of_every_size(arch: str) -> None:
    """The names in the authors' files are the backbone's after a prefix, and those of known heads."""
    expected = backbone_shapes(arch)
    for prefix, head, loss in (
        ("", classifier_head(arch), []),
        ("module.", classifier_head(arch), []),
        ("", fcn_head(arch), []),
        ("model.", ocr_head(arch), ["loss.criterion.weight"]),
        ("module.model.", fcn_head(arch), ["module.loss.criterion.weight"]),
    ):
        shapes = {f"{prefix}{name}": tuple(shape) for name, shape in {**expected, **head}.items()}
        shapes |= dict.fromkeys(loss, (19,))
        tensors = {
            name: torch.empty(shape, dtype=torch.int64 if name.endswith("tracked") else torch.float32, device="meta")
            for name, shape in shapes.items()
        }
        state, note = unwrap_backbone(tensors, tensors.__getitem__)
        compare({name: (each.dtype, tuple(each.shape)) for name, each in state.items()}, expected, "", torch.float32)
        left = dict.fromkeys(name.split(".")[0] for name in head) | dict.fromkeys(["loss"] if loss else [])
        assert note == f"left out: {', '.join(sorted(left))}"


def test_files_of_the_authors(backbone: HRNet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fcn = beside(backbone, fcn_head("hr18s"), "module.model.")
    ocr = beside(backbone, ocr_head("hr18s"), "model.") | {"loss.criterion.weight": torch.ones(19)}
    old = {name: entry for name, entry in ocr.items() if not name.endswith("num_batches_tracked")}  # torch 0.4
    training = {"epoch": 3, "best_mIoU": 0.8, "state_dict": ocr, "optimizer": {"state": {}}}
    (tmp_path / "checkpoint.pth.tar").write_bytes(saved(training, modern=False))
    save_file(fcn, tmp_path / "fcn.safetensors")
    save_file(old, tmp_path / "old.safetensors")
    for name, note in (
        ("checkpoint.pth.tar", "left out: aux_head, cls_head, conv3x3_ocr, loss, ocr_distri_head"),
        ("fcn.safetensors", "left out: last_layer"),
        ("old.safetensors", ", loss, ocr_distri_head; added: counters of batch norm"),
    ):
        assert same(create_backbone("hr18s", checkpoint=tmp_path / name, device="cpu"), backbone)
        assert note in caplog.messages[-1]
        with pytest.raises(StateDictMismatchError) as caught:
            create_model("fcn_hr18s_cityscapes_40k", checkpoint=tmp_path / name, device="cpu")
        assert "HRNet's authors, whose head has other layers (convolutions with a bias)" in caught.value.found
        assert "align_corners=True" in caught.value.found
        assert "create_backbone('hr18s', checkpoint=...), and fine-tune it with a new head" in caught.value.advice
    averaged = torch.optim.swa_utils.AveragedModel(backbone).state_dict() | {"module.stage4.total_ops": torch.ones(1)}
    save_file(averaged, tmp_path / "averaged.safetensors")
    assert same(create_backbone("hr18s", checkpoint=tmp_path / "averaged.safetensors", device="cpu"), backbone)
    assert caplog.messages[-1].endswith("left out: n_averaged, total_ops")
    save_file(beside(backbone, classifier_head("hr18s")), tmp_path / "classifier.safetensors")
    with pytest.raises(StateDictMismatchError, match=r"an ImageNet classifier[\s\S]*pretrained='imagenet'"):
        create_model("fcn_hr18s_cityscapes_40k", checkpoint=tmp_path / "classifier.safetensors", device="cpu")


def test_anything_else_is_refused(backbone: HRNet, tmp_path: Path) -> None:
    path, state = tmp_path / "other.safetensors", beside(backbone, fcn_head("hr18s"))
    part = {name: entry for name, entry in state.items() if not name.startswith("stage4.1.")}
    both = {f"model.{name}": entry for name, entry in state.items()} | {"conv1.weight": torch.ones(1)}
    cases: list[tuple[dict[str, Tensor], str]] = [
        ({**state, "head.0.weight": torch.ones(1)}, r"1 unexpected: head\.0\.weight"),
        ({**state, "model.conv1.weight": torch.ones(1)}, r"1 unexpected: model\.conv1\.weight"),
        (both, "missing"),
        (part, r"missing: stage4\.1\.branches"),
        ({**state, "conv1.weight": torch.ones(64, 4, 3, 3)}, r"1 different: conv1\.weight: \(64, 4, 3, 3\)"),
        ({"fc.weight": torch.ones(1)}, "whole HRNetV2 backbone"),
    ]
    for content, words in cases:
        save_file(content, path)
        with pytest.raises(StateDictMismatchError, match=words):
            create_backbone("hr18s", checkpoint=path, device="cpu")
    save_file(state, path)
    with pytest.raises(StateDictMismatchError, match="a network of size hr18s, where hr32 was asked for"):
        create_backbone("hr32", checkpoint=path, device="cpu")


def test_the_backbone_of_a_model(demo_folder: Path, tmp_path: Path) -> None:
    model = create_model("demo", device="cpu")
    for name in ("demo", demo_folder):
        found = create_backbone(name, device="cpu")
        assert same(found, model.backbone)
        assert not found.training
    torch.save({"state_dict": model.state_dict(), "meta": {}}, tmp_path / "own.pth")
    assert same(create_backbone("hr18s", checkpoint=tmp_path / "own.pth", device="cpu"), model.backbone)


def test_maps_channels_and_strides() -> None:
    for arch, width in (("hr18s", 18), ("hr32", 32)):
        backbone = create_backbone(arch, pretrained=False, device="cpu", dtype="bfloat16")
        assert backbone.channels == (width, 2 * width, 4 * width, 8 * width)
        assert backbone.strides == (4, 8, 16, 32)
        with torch.inference_mode():
            maps = backbone(X.bfloat16())
        sides = [(c, -(-65 // s), -(-97 // s)) for c, s in zip(backbone.channels, backbone.strides, strict=True)]
        assert [tuple(each.shape[1:]) for each in maps] == sides
        assert {each.dtype for each in maps} == {torch.bfloat16}


def test_a_network_without_a_published_model() -> None:
    model = create_model("hr32", pretrained=False, classes=CLASSES, device="cpu")
    assert (model.arch, model.method, model.provenance) == ("hr32", "FCN", {})
    with torch.inference_mode():
        assert model(X).shape == (1, 2, 65, 97)


def test_own_checkpoint_of_such_a_network(tmp_path: Path) -> None:
    trained = create_model("hr18s", pretrained=False, classes=CLASSES, device="cpu")
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "mine.pth")
    model = create_model("hr18s", checkpoint=tmp_path / "mine.pth", classes=CLASSES, device="cpu")
    assert same(model.backbone, trained.backbone)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: create_model("hr48"), UnknownModelError, r"fcn_hr48_cityscapes_160k[\s\S]*pretrained='imagenet'"),
        (lambda: create_model("hr32"), UnknownModelError, "create_model\\('hr32', pretrained='imagenet'"),
        (lambda: create_model("hrnet_w32", "imagenet", classes=2), UnknownModelError, "create_model\\('hr32', pre"),
        (lambda: create_model("hr64", "imagenet", classes=2), UnknownModelError, "hr64"),
        (lambda: create_model("hr32", "imagenet"), ConfigError, "classes="),
        (lambda: create_model("hr32", "ImageNet", classes=2), ConfigError, "pretrained is True, 'imagenet' or False"),
        (lambda: create_model("hr32", "imagenet", checkpoint="a.pth", classes=2), ConfigError, "only True goes with"),
        (lambda: create_backbone("hr32", False, checkpoint="a.pth"), ConfigError, "only True goes with"),
        (lambda: create_backbone("resnet50"), UnknownModelError, "resnet50"),
        (lambda: create_backbone("hr32", device="gpu"), ConfigError, "devices here"),
    ],
)
def test_bad_arguments(call: Callable[[], object], error: type[Exception], words: str, cache: Path) -> None:
    with pytest.raises(error, match=words):
        call()
    assert not cache.exists()


def test_is_the_public_function() -> None:
    assert hrnet_zoo.create_backbone is create_backbone


def test_other_bands_begin_with_what_is_known_of_colors(published: FaultServer, backbone: HRNet) -> None:
    made = create_model(
        "hr18s", "imagenet", classes=CLASSES, bands=["depth", "red"], mean=[0, 0], std=[1, 1], device="cpu"
    )
    red, green, blue = backbone.conv1.weight.unbind(1)
    torch.testing.assert_close(made.backbone.conv1.weight[:, 1], red)
    torch.testing.assert_close(made.backbone.conv1.weight[:, 0], green + blue)
