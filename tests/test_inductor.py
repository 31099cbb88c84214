"""Compiled plans score as the plan does, are kept, and are never believed unseen."""

import dataclasses
import os
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._inductor import config as inductor_config

from hrnet_zoo.acceleration import optimize
from hrnet_zoo.creation import create_model
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines import inductor
from hrnet_zoo.engines.inductor import InductorEngine
from hrnet_zoo.engines.plan import Convolution, Exchange, Head
from hrnet_zoo.engines.pytorch import PyTorchEngine
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.weights import cache, packages

CPU = torch.device("cpu")


def has_compiler() -> bool:
    try:
        inductor.compiler()
    except ConfigError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler")


class Tiny(nn.Module):
    """A network of a plan's steps, one of each: a whole one takes half a minute to compile."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)

        def convolution(inputs: int, outputs: int, kernel: int, stride: int, relu: bool) -> Convolution:
            weight = torch.randn(outputs, inputs, kernel, kernel, generator=random) / inputs**0.5 / kernel
            return Convolution(weight, torch.randn(outputs, generator=random), stride, relu)

        self.stem = convolution(3, 4, 3, 2, relu=True)
        self.fine = convolution(4, 4, 3, 2, relu=True)
        self.coarse = convolution(4, 4, 3, 2, relu=True)
        self.sum = convolution(4, 4, 3, 1, relu=True)
        self.sum.overwrites = True
        self.exchange = Exchange((2,))
        self.head = Head(convolution(8, 8, 1, 1, relu=True), convolution(8, 5, 1, 1, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        """Score pictures."""
        fine = self.fine(self.stem(x))
        coarse = self.coarse(fine)
        fine = self.exchange(self.sum(fine, fine + 1), coarse)
        scores: Tensor = self.head(fine, coarse)
        return scores


class Steps(fx.Tracer):
    """Leaves a plan's steps whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Take every module for a step."""
        return True


def tiny() -> fx.GraphModule:
    module = Tiny().eval()
    return fx.GraphModule(module, Steps().trace(module), "Plan")


def engine(dtype: torch.dtype = torch.float32) -> InductorEngine:
    return InductorEngine(tiny(), dtype, PyTorchEngine(tiny(), CPU, dtype), "tiny:1/2")


def picture(height: int = 13, width: int = 22, count: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def kept() -> list[Path]:
    return [entry.path for entry in cache.entries() if entry.kind == "package"]


@needs_compiler
def test_a_whole_network(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Compiled once, here where tensors are those of inference; what is kept serves the next."""
    demo = create_model("demo", device="cpu")
    demo.dataset = dataclasses.replace(demo.dataset, box=(96, 64))
    image = scene(0, 64, 96).image
    with torch.inference_mode():
        fast = optimize(demo, dtype=torch.float32, compile=True)
    assert repr(fast) == "OptimizedModel(demo: inductor, float32 on cpu)"
    assert (fast.predict(image).mask == demo.predict(image).mask).mean() >= 0.9999
    (path,) = kept()
    assert path.name.startswith("demo-64x96-")
    assert [record.message for record in caplog.records if record.name == "hrnet_zoo"] == [
        "compiling demo for 64 x 96 pixels, half a minute or more"
    ]
    x = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = fast.quarter_scores(x), demo.quarter_scores(x)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max() / expected.abs().max()) < 5e-6
    monkeypatch.setattr(inductor, "compile_plan", pytest.fail)
    again = optimize(demo, dtype=torch.float32, compile=True)
    with torch.no_grad():
        assert torch.equal(again.quarter_scores(x), found)


@needs_compiler
def test_what_a_name_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [engine()._stem(picture()) for _ in range(2)]
    assert names[0] == names[1]
    names.append(engine(torch.bfloat16)._stem(picture()))
    names.append(engine()._stem(picture(14)))
    other = engine()
    step = other._plan.get_submodule("stem")
    assert isinstance(step, Convolution)
    step.weight[0, 0, 0, 0] += 1e-6
    names.append(other._stem(picture()))
    other = engine()
    step = other._plan.get_submodule("head.mix")
    assert isinstance(step, Convolution)
    step.relu = False
    names.append(other._stem(picture()))
    for place, other_one in (
        ("torch.__version__", "2.99"),
        ("torch.get_num_threads", lambda: 77),
        ("torch.cpu.get_capabilities", lambda: {"amx_bf16": True}),
        ("hrnet_zoo.engines.inductor.processor", lambda: "another"),
        ("hrnet_zoo.engines.inductor.platform.platform", lambda: "another"),
        ("hrnet_zoo.engines.inductor.VERSION", -1),
    ):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(place, other_one)
            names.append(engine()._stem(picture()))
    assert len(set(names)) == len(names) - 1


class Faked:
    """Stands for the compiler: a package is a file of zip, and its code is the plan, or something else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compiled = 0
        self.wrong = False
        self.broken = False
        self.plain = PyTorchEngine(tiny(), CPU, torch.float32)
        monkeypatch.setattr(inductor, "compile_plan", self.compile)
        monkeypatch.setattr(inductor, "load", self.load)
        monkeypatch.setattr(inductor, "compiler", lambda: "g++")

    def compile(self, plan: nn.Module, x: Tensor, path: Path) -> Path:
        """Write what a compiler would."""
        self.compiled += 1
        with zipfile.ZipFile(path, "w") as package:
            package.writestr("code", b"\x90" * 1000)
        return path

    def load(self, path: Path) -> Any:
        """Return what is to be taken for the package's code."""
        packages.check(path)
        if self.broken:
            raise RuntimeError("version `GLIBC_2.38' not found")
        return (lambda x: -self.plain(x)) if self.wrong else self.plain


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Faked:
    return Faked(monkeypatch)


def test_wrong_code_is_not_used(faked: Faked, caplog: pytest.LogCaptureFixture) -> None:
    """Neither fresh nor from the cache, and it is not kept."""
    engine()(picture())
    faked.wrong = True
    for size in ((13, 22), (9, 9)):
        x = picture(*size)
        assert torch.equal(engine()(x), faked.plain(x))
        assert f"compiled code is not used for {size}: its scores are off by" in caplog.text
    assert len(kept()) == 1


def test_damaged_packages_are_made_again(faked: Faked, caplog: pytest.LogCaptureFixture) -> None:
    engine()(picture())
    (path,) = kept()
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    engine()(picture())
    assert faked.compiled == 2
    assert path.read_bytes() == whole
    assert "what was compiled before is not used" in caplog.text


def test_packages_of_another_system_are_made_again(
    faked: Faked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x = picture()
    engine()(x)
    first = faked.compile

    def mended(*arguments: Any) -> Path:
        faked.broken = False
        return first(*arguments)

    faked.broken = True
    monkeypatch.setattr(inductor, "compile_plan", mended)
    assert torch.equal(engine()(x), faked.plain(x))
    assert faked.compiled == 2
    assert "what was compiled before cannot be loaded here: version `GLIBC_2.38' not found" in caplog.text


def test_another_process_was_faster(faked: Faked, monkeypatch: pytest.MonkeyPatch) -> None:
    """It compiled while this one waited for the lock."""

    @contextmanager
    def waited(stem: str) -> Iterator[None]:
        packages.keep(stem, faked.compile(tiny(), picture(), files / "theirs.pt2"))
        yield

    files = cache.root().parent
    monkeypatch.setattr(cache, "lock", waited)
    engine()(picture())
    assert faked.compiled == 1


def test_threads_compile_a_size_once_and_wait_for_no_other(faked: Faked, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = engine()
    fast(picture(8, 8))
    compiling, go_on = threading.Event(), threading.Event()
    first = faked.compile

    def slow(*arguments: Any) -> Path:
        compiling.set()
        assert go_on.wait(60)
        return first(*arguments)

    monkeypatch.setattr(inductor, "compile_plan", slow)
    with ThreadPoolExecutor(3) as pool:
        new = [pool.submit(fast, picture()) for _ in range(2)]
        assert compiling.wait(60)
        assert torch.equal(pool.submit(fast, picture(8, 8)).result(60), faked.plain(picture(8, 8)))
        go_on.set()
        assert all(torch.equal(each.result(60), faked.plain(picture())) for each in new)
    assert faked.compiled == 2


@pytest.mark.skipif(os.name != "posix", reason="no modes")
def test_what_others_can_write_is_not_run(faked: Faked, caplog: pytest.LogCaptureFixture) -> None:
    x = picture()
    engine()(x)
    (path,) = kept()
    path.chmod(0o660)
    assert torch.equal(engine()(x), faked.plain(x))
    assert faked.compiled == 2
    assert "it belongs to another user, or others may write it" in caplog.text


def test_unwritable_cache(faked: Faked, caplog: pytest.LogCaptureFixture) -> None:
    cache.root().write_bytes(b"a file in the way")
    x = picture()
    fast = engine()
    assert torch.equal(fast(x), faked.plain(x))
    fast(x)
    assert faked.compiled == 1
    assert "what is compiled is not kept" in caplog.text


def test_full_disk(faked: Faked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hrnet_zoo.weights.packages.shutil.copyfileobj", full)
    x = picture()
    assert torch.equal(engine()(x), faked.plain(x))
    assert "what was compiled is not kept" in caplog.text
    assert "No space left" in caplog.text
    assert [entry.kind for entry in cache.entries()] == ["lock"]


def test_enough_sizes(faked: Faked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(inductor, "SIZES", 2)
    fast = engine()
    for width in (8, 9, 10, 10, 11, 8):
        assert torch.equal(fast(picture(8, width)), faked.plain(picture(8, width)))
    assert faked.compiled == 2
    assert caplog.text.count("2 sizes of pictures were compiled; others are scored without that") == 1


def test_no_compiler() -> None:
    absent = inductor_config.patch({"cpp.cxx": ("no-such-compiler",)})
    with absent, pytest.raises(ConfigError, match=r"found: there is no C\+\+ compiler") as caught:
        optimize(create_model("demo", device="cpu"), compile=True)
    assert "CXX" in caught.value.advice


@pytest.mark.skipif(os.name != "posix", reason="the compiler is a script")
def test_the_compiler_fails(tmp_path: Path) -> None:
    broken = tmp_path / "g++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo "no space for an object file" >&2; exit 1; }\n')
    broken.chmod(0o700)
    with inductor_config.patch({"cpp.cxx": (str(broken),)}):
        fast = engine()
        before = set(Path(tempfile.gettempdir()).iterdir())
        for size in ((13, 22), (8, 8)):
            with pytest.raises(ConfigError, match="for 13 x 22 pixels") as caught:
                fast(picture(*size))
            assert "compiler failed" in caught.value.found
    assert not [path for path in set(Path(tempfile.gettempdir()).iterdir()) - before if "hrnet" in path.name]
    assert kept() == []


@pytest.mark.parametrize("options", [{"engine": "cuda"}, {"engine": "openvino"}])
def test_what_is_not_compiled(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        optimize(create_model("demo", device="cpu"), compile=True, **options)
