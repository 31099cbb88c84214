"""Image to mask: the reference's recorded masks, every kind of input, windows, scales and flips, dtypes."""

import dataclasses
import io
import itertools
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from hrnet_zoo.datasets import VAIHINGEN
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError, ImageError
from hrnet_zoo.images.preprocess import keep_ratio_size, normalize, resize
from hrnet_zoo.images.read import RGB, ImageLike, read_image
from hrnet_zoo.inference.predict import (
    IMAGES_AHEAD,
    PredictOptions,
    evaluating,
    full_precision,
    predict_each,
    resized,
    view_logits,
    windows,
)
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.catalog import model_info
from hrnet_zoo.zoo.create import create_model
from tests.models.test_fcn import GOLDEN

FRAME = "frankfurt_000000_000294_leftImg8bit.png"


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> FCNHRNet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HRNET_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        return create_model("fcn_hr18s_cityscapes_40k", checkpoint=shared / GOLDEN, device="cpu")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> FCNHRNet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HRNET_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        return create_model("demo", device="cpu")


def assert_agrees(mask: np.ndarray, shared: Path, key: str, margin: float = 0.01) -> None:
    """Compare with a recorded mask: equal but where the two best logits are within the margin."""
    recorded = load_file(shared / "golden/expected.safetensors")
    differs = mask != recorded[f"{key}.mask"].numpy()
    assert not (differs & (recorded[f"{key}.margin"].numpy() > margin)).any()
    assert differs.mean() <= 0.001


@pytest.mark.parametrize("name", ["3dogs.jpg", "color.jpg", FRAME])
def test_whole_image_as_the_reference(name: str, golden: FCNHRNet, shared: Path) -> None:
    assert_agrees(golden.predict(shared / "pictures" / name).mask, shared, f"{name}.whole")


def test_sliding_window_as_the_reference(golden: FCNHRNet, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = read_image(shared / "pictures/color.jpg")
    own_size = (max(image.shape), sorted(image.shape)[1])
    unresized = dataclasses.replace(golden.dataset, crop=(128, 128), resize_to=own_size)
    assert unresized.window == (128, 85)
    monkeypatch.setattr(golden, "dataset", unresized)
    assert_agrees(golden.predict(image, mode="slide").mask, shared, "color.jpg.slide_128_85_unresized")


def test_windows_cover_and_stay_inside() -> None:
    assert windows(1000, 480, 320) == [slice(0, 480), slice(320, 800), slice(520, 1000)]
    assert windows(480, 480, 320) == [slice(0, 480)]
    assert windows(481, 480, 320) == [slice(0, 480), slice(1, 481)]
    assert windows(300, 480, 320) == [slice(0, 300)]


def test_one_window_is_the_whole(demo: FCNHRNet) -> None:
    image = scene(0, 96, 128).image
    with torch.inference_mode():
        (slid,) = view_logits(demo, [image], slide=True, flip=False)
        (whole,) = view_logits(demo, [image], slide=False, flip=False)
    assert len(slid.windows) == len(whole.windows) == 1
    assert torch.equal(slid.windows[0].logits, whole.windows[0].logits)


@pytest.mark.parametrize("options", [{"mode": "whole"}, {"mode": "slide"}, {"ms_flip": True}])
def test_views_in_batches_are_the_same(
    demo: FCNHRNet, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA: windows and flips together."""
    image = scene(7, 100, 160).image
    monkeypatch.setattr(demo, "dataset", dataclasses.replace(demo.dataset, crop=(64, 64), resize_to=(160, 100)))
    alone = demo.predict(image, probabilities=True, **options)
    monkeypatch.setattr("hrnet_zoo.inference.predict.batch_size", lambda device, area: 5)
    together = demo.predict(image, probabilities=True, **options)
    assert alone.probabilities is not None
    assert together.probabilities is not None
    np.testing.assert_allclose(alone.probabilities, together.probabilities, atol=1e-4)
    assert np.mean(alone.mask == together.mask) > 0.9999


@pytest.mark.parametrize("options", [{}, {"mode": "slide"}, {"ms_flip": True}])
def test_the_mask_does_not_depend_on_the_memory_allowed(
    demo: FCNHRNet, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "dataset", dataclasses.replace(demo.dataset, crop=(64, 64), resize_to=(160, 96)))
    image = scene(8, 120, 200).image
    plain = demo.predict(image, probabilities=True, max_memory=1 << 40, **options)
    assert plain.probabilities is not None
    for max_memory in (None, 250_000):
        same = demo.predict(image, probabilities=True, max_memory=max_memory, **options)
        assert same.probabilities is not None
        assert np.array_equal(same.mask, plain.mask)
        assert np.array_equal(same.probabilities, plain.probabilities)


def test_little_memory_is_one_row_at_a_time_and_none_is_refused(
    demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = scene(8, 64, 100).image
    assert np.array_equal(demo.predict(image, max_memory=1).mask, demo.predict(image).mask)
    monkeypatch.setattr("hrnet_zoo.inference.predict.view_logits", pytest.fail)
    for wrong in (0, -5):
        with pytest.raises(ConfigError, match=f"max_memory={wrong}"):
            demo.predict([image], max_memory=wrong)


def test_the_mask_is_that_of_all_logits_at_once(demo: FCNHRNet) -> None:
    """By torch's own interpolation; a trained network leaves few ties."""
    drawn = scene(9)
    with torch.inference_mode():
        logits = demo(normalize(drawn.image))
        logits = F.interpolate(logits, size=drawn.mask.shape, mode="bilinear", align_corners=False)
    best, second = logits.topk(2, dim=1).values[0]
    differs = demo.predict(drawn.image).mask != logits.argmax(dim=1)[0].numpy()
    assert not (differs & (best - second > 1e-4).numpy()).any()
    assert differs.sum() <= 3


def test_every_kind_of_image_gives_the_same_mask(demo: FCNHRNet, tmp_path: Path) -> None:
    drawn = scene(1, 96, 160)
    image = Image.fromarray(drawn.image)
    image.save(tmp_path / "a.png")
    tensor = torch.from_numpy(drawn.image).permute(2, 0, 1)
    file = io.BytesIO()
    image.save(file, "png")
    mask = demo.predict(drawn.image).mask
    assert mask.shape == (96, 160)
    assert mask.dtype == np.uint8
    for same in (image, tmp_path / "a.png", str(tmp_path / "a.png"), file.getvalue()):
        assert np.array_equal(demo.predict(same).mask, mask)
    one = demo.predict(tensor)
    assert not isinstance(one, list)
    assert np.array_equal(one.mask, mask)
    batch = demo.predict(torch.stack([tensor, tensor.flip(2)]))
    assert isinstance(batch, list)
    assert np.array_equal(batch[0].mask, mask)
    assert len(batch) == 2


def test_images_that_are_skipped(demo: FCNHRNet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their errors stand in their places; without being told to, the first one ends all."""
    good = scene(0, 64, 96).image
    images = [good, tmp_path / "absent.png", b"no image", good]
    with pytest.raises(ImageError, match=r"absent\.png"):
        demo.predict(images)
    results = demo.predict(images, on_error="skip")
    assert [type(each) for each in results] == [*(SegmentationResult, ImageError, ImageError, SegmentationResult)]
    assert "absent.png" in str(results[1])
    (line,) = [message for message in caplog.messages if "skipped" in message]
    assert line.startswith("2 of 4 images were skipped; the first: read an image: ")
    assert "absent.png" in line
    assert len(demo.predict([good], on_error="skip")) == 1
    with pytest.raises(ImageError):
        demo.predict(tmp_path / "absent.png", on_error="skip")
    with pytest.raises(ConfigError, match=r"on_error='ignore'[\s\S]*one of 'raise', 'skip'"):
        demo.predict(images, on_error="ignore")  # type: ignore[call-overload]


def test_a_list_of_mixed_sizes_keeps_its_order(demo: FCNHRNet) -> None:
    images = [scene(seed, 64 + 32 * seed, 128).image for seed in range(3)]
    results = demo.predict(images)
    assert [result.mask.shape for result in results] == [(64, 128), (96, 128), (128, 128)]
    for image, result in zip(images, results, strict=True):
        assert np.array_equal(demo.predict(image).mask, result.mask)
    assert demo.predict([]) == []


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hrnet-zoo")]


def test_arrays_in_the_order_of_opencv(demo: FCNHRNet) -> None:
    image = scene(3, 64, 96).image
    expected = demo.predict(image)
    for swapped in (image[..., ::-1], torch.tensor(image[..., ::-1].copy()).permute(2, 0, 1)):
        (found,) = demo.predict([swapped], color="bgr")
        np.testing.assert_array_equal(found.mask, expected.mask)
        np.testing.assert_array_equal(found.image, image)
    np.testing.assert_array_equal(demo.predict(image[..., ::-1], color="bgr").mask, expected.mask)
    bgra = np.dstack([image[..., ::-1], np.full(image.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(read_image(bgra, "bgr"), image)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    np.testing.assert_array_equal(read_image(file.getvalue(), "bgr"), image)
    with pytest.raises(ConfigError, match="'rgb' or 'bgr'"):
        demo.predict(image, color="brg")  # type: ignore[call-overload]


def test_images_are_read_meanwhile_in_other_threads(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few of them, and no more before they are wanted."""
    read: list[str] = []

    def spy(image: ImageLike, color: Literal["rgb", "bgr"]) -> RGB:
        read.append(threading.current_thread().name)
        return read_image(image, color)

    monkeypatch.setattr("hrnet_zoo.inference.predict.read_image", spy)
    with (
        evaluating(demo),
        closing(predict_each(demo, itertools.repeat(scene(0, 64, 64).image), PredictOptions())) as results,
    ):
        for turn in range(1, 4):
            assert isinstance(next(results), SegmentationResult)
            assert turn <= len(read) <= turn + 1 + IMAGES_AHEAD  # the network sees the next image
    assert all(name.startswith("hrnet-zoo") for name in read)
    assert not threads()


def test_an_image_that_cannot_be_read_is_an_error_in_its_turn(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    images: list[ImageLike] = [scene(0, 64, 64).image, Path("absent.png"), scene(1, 64, 64).image, b"nothing"]
    with evaluating(demo):
        found = list(predict_each(demo, images, PredictOptions()))
    kinds = [SegmentationResult, ImageError, SegmentationResult, ImageError]
    assert [type(each) for each in found] == kinds
    seen = 0

    def spy(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        return view_logits(*args, **kwargs)

    monkeypatch.setattr("hrnet_zoo.inference.predict.view_logits", spy)
    with pytest.raises(ImageError, match=r"absent\.png"):
        demo.predict(images)
    assert seen == 1
    assert not threads()


def test_an_interruption_leaves_no_thread(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hrnet_zoo.inference.predict.view_logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.predict([scene(0, 64, 64).image] * 9)
    assert not threads()
    assert not torch.is_inference_mode_enabled()


def test_one_pil_image_many_times(demo: FCNHRNet, tmp_path: Path) -> None:
    """It reads its file when it is first used, whichever thread is first."""
    drawn = scene(1, 96, 160)
    Image.fromarray(drawn.image).save(tmp_path / "a.png")
    mask = demo.predict(drawn.image).mask
    with Image.open(tmp_path / "a.png") as image:
        results = demo.predict([image] * 6)
    assert all(np.array_equal(result.mask, mask) for result in results)


def test_probabilities_are_those_of_the_mask(demo: FCNHRNet) -> None:
    image = scene(2, 96, 160).image
    plain = demo.predict(image)
    result = demo.predict(image, probabilities=True)
    assert plain.probabilities is None
    assert result.probabilities is not None
    assert result.probabilities.shape == (19, 96, 160)
    assert result.probabilities.dtype == np.float32
    np.testing.assert_allclose(result.probabilities.sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(result.probabilities.argmax(axis=0), result.mask)
    assert (plain.mask == result.mask).mean() > 0.9999


def test_scales_and_flips_are_a_mean_of_probabilities(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twelve views, each put together by hand; tests/slow compares with the reference."""
    monkeypatch.setattr(demo, "dataset", dataclasses.replace(demo.dataset, resize_to=(128, 64)))
    drawn = scene(3, 96, 160)
    expected = torch.zeros(1, 19, 96, 160)
    with torch.inference_mode():
        for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75):
            size = keep_ratio_size(96, 160, (int(128 * ratio), int(64 * ratio)))
            x = normalize(resize(drawn.image, *size))
            for logits in (demo(x), demo(x.flip(3)).flip(3)):
                expected += F.interpolate(logits, (96, 160), mode="bilinear", align_corners=False).softmax(dim=1) / 12
    result = demo.predict(drawn.image, ms_flip=True, probabilities=True)
    assert result.probabilities is not None
    np.testing.assert_allclose(result.probabilities, expected[0].numpy(), atol=1e-4)
    assert np.array_equal(result.mask, demo.predict(drawn.image, ms_flip=True).mask)


def test_mode_follows_the_data_set(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        views = view_logits(*args, **kwargs)
        seen.append(len(views[0].windows))
        return views

    monkeypatch.setattr("hrnet_zoo.inference.predict.view_logits", spy)
    image = scene(4, 600, 700).image
    demo.predict(image)
    demo.predict(image, mode="slide")
    context = FCNHRNet("hr18s", model_info("fcn_hr48_pascal_context_40k").dataset)
    context.predict(image)
    context.predict(image, mode="whole")
    assert seen == [1, 2 * 3, 1 * 2, 1]


def test_a_training_model_is_left_training(demo: FCNHRNet) -> None:
    image = scene(5, 64, 128).image
    mask = demo.predict(image).mask
    before = {name: entry.clone() for name, entry in demo.state_dict().items()}
    demo.train()
    demo.backbone.bn1.eval()
    try:
        assert np.array_equal(demo.predict(image).mask, mask)
        assert demo.training
        assert demo.backbone.bn2.training
        assert not demo.backbone.bn1.training
    finally:
        demo.eval()
    assert all(torch.equal(entry, before[name]) for name, entry in demo.state_dict().items())


def agreement(model: FCNHRNet, other: FCNHRNet) -> float:
    images = [scene(seed).image for seed in range(2)]
    pairs = zip(model.predict(images), other.predict(images), strict=True)
    return float(np.mean([np.mean(a.mask == b.mask) for a, b in pairs]))


def test_half_precision_on_the_cpu_agrees(demo: FCNHRNet) -> None:
    assert agreement(demo, create_model("demo", device="cpu", dtype=torch.float16)) >= 0.995


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_cuda_agrees_with_the_cpu(demo: FCNHRNet, dtype: torch.dtype) -> None:
    found = agreement(demo, create_model("demo", device="cuda", dtype=dtype))
    assert found >= {torch.float16: 0.995, torch.bfloat16: 0.98, torch.float32: 0.999}[dtype]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_windows_scales_and_flips(demo: FCNHRNet) -> None:
    image = scene(6).image
    fast = create_model("demo", device="cuda")
    for options in ({"mode": "slide"}, {"ms_flip": True}):
        found = np.mean(fast.predict(image, **options).mask == demo.predict(image, **options).mask)
        assert found >= 0.995


def test_bad_input(demo: FCNHRNet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mode is one of None, 'whole', 'slide'"):
        demo.predict(np.zeros((8, 8, 3), np.uint8), mode="tiles")
    with pytest.raises(ImageError, match=r"absent\.jpg"):
        demo.predict(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="float"):
        demo.predict(np.zeros((8, 8, 3), np.float32))


def conv_precision() -> str:
    return str(torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined]  # an object, not the module


def test_tf32_is_off_and_torch_s_settings_are_left_as_they_were() -> None:
    cudnn = torch.backends.cudnn

    def settings() -> tuple[object, ...]:
        return cudnn.enabled, cudnn.benchmark, cudnn.deterministic

    before = settings()
    assert (cudnn.allow_tf32, conv_precision()) == (True, "tf32")
    with full_precision():
        assert conv_precision() == "ieee"
        assert settings() == before
    assert (cudnn.allow_tf32, conv_precision()) == (True, "tf32")
    cudnn.allow_tf32 = False
    try:
        with full_precision():
            pass
        assert not cudnn.allow_tf32
    finally:
        cudnn.allow_tf32 = True


def test_evaluating_on_cuda_is_without_tf32(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    with evaluating(demo):
        assert conv_precision() == "tf32"  # left alone on a CPU
    monkeypatch.setattr(type(demo.decode_head.conv_seg.weight), "device", torch.device("cuda:0"), raising=False)
    with evaluating(demo):
        assert conv_precision() == "ieee"
    assert conv_precision() == "tf32"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_computes_float32_in_float32(demo: FCNHRNet) -> None:
    """TF32 would be off by about a thousandth."""
    there = create_model("demo", device="cuda", dtype=torch.float32)
    images = resized(scene(3).image, demo.dataset.resize_to, ms_flip=False)
    with evaluating(there), evaluating(demo):
        views = [view_logits(model, images, slide=False, flip=False)[0] for model in (demo, there)]
    here, found = (each.windows[0].logits.cpu() for each in views)
    assert float((here - found).abs().max() / here.abs().max()) < 1e-4


def test_networks_that_do_not_take_rgb_say_so_once(demo: FCNHRNet, caplog: pytest.LogCaptureFixture) -> None:
    aerial = create_model("demo", device="cpu")
    aerial.dataset = dataclasses.replace(aerial.dataset, title="Somewhere", bands=VAIHINGEN.bands)
    image = np.zeros((32, 32, 3), np.uint8)
    demo.predict(image)
    assert not caplog.messages
    for _ in range(2):
        aerial.predict(image)
        aerial.predict([image])
    (message,) = caplog.messages
    assert message.startswith("networks of Somewhere take near infrared, red, green in place of red, green and blue")
