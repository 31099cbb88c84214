"""The engine is chosen by its time and by what it computes, and the choice is remembered."""

import json
import logging
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hrnet_zoo.engines import choice, onednn, openvino
from hrnet_zoo.engines.choice import SIZE, Candidate, build, candidates
from hrnet_zoo.engines.folding import Plan, PyTorchEngine
from hrnet_zoo.engines.optimize import optimize
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model

CPU = torch.device("cpu")
NAMES = ("first", "second", "third")


@pytest.fixture(scope="module")
def demo() -> FCNHRNet:
    return create_model("demo", device="cpu")


class Fake(PyTorchEngine):
    """Runs no plan: gives logits of class 0, but for a share of the pixels."""

    def __init__(self, plan: Plan, name: str, wrong: float = 0.0, error: str | None = None) -> None:
        if error:
            raise RuntimeError(error)
        self.name, self.device, self.dtype = name, CPU, torch.float32
        self.wrong = wrong

    def __call__(self, x: Tensor) -> Tensor:  # noqa: D102 - PyTorchEngine's
        logits = torch.zeros(1, SIZE[0] // 4, SIZE[1] // 4, 3)
        logits[..., 0] = 1
        logits[:, : round(self.wrong * len(logits[0])), :, 1] = 2
        return logits.mul_(torch.inf) if self.wrong == 1 else logits


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Let the engines take these seconds: the first run, the second, and so on."""
    made_up: dict[str, list[float]] = {}
    monkeypatch.setattr(choice, "_seconds", lambda engine, x: made_up[engine.name].pop(0))
    return made_up


def fakes(**options: dict[str, object]) -> list[Candidate]:
    made = {name: partial(Fake, name=name, **options.get(name, {})) for name in NAMES}  # type: ignore[arg-type]
    return [Candidate(name, torch.float32, each) for name, each in made.items()]


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [
        ([[4], [3, 3, 3, 3], [2, 2, 2, 2]], "third"),  # hopeless ones are not timed again
        ([[2, 2, 2, 2], [3, 3, 3, 3], [9]], "first"),
        ([[2, 2, 2, 2], [1.95, 1.95, 1.95, 1.95], [1.99, 2, 2, 2]], "first"),  # by too little
        ([[2, 2, 2, 2], [1.9, 1.9, 1.9, 1.9], [1.88, 1.88, 1.88, 1.88]], "second"),  # the third by too little
        ([[9, 1, 9, 9], [8, 2], [8.5, 3]], "first"),  # the least time counts
    ],
)
def test_the_fastest_is_taken(
    demo: FCNHRNet, times: dict[str, list[float]], seconds: list[list[float]], taken: str
) -> None:
    times.update(zip(NAMES, seconds, strict=True))
    engine, chosen, trials = build(Plan(demo), fakes())
    assert (engine.name, chosen.engine) == (taken, taken)
    assert not any(times.values())
    assert [each.candidate for each in trials] == [f"{name} float32" for name in NAMES]


def test_one_that_labels_otherwise_is_out(
    demo: FCNHRNet, times: dict[str, list[float]], caplog: pytest.LogCaptureFixture
) -> None:
    times.update(first=[4] * 4, second=[1] * 4, third=[1] * 4)
    with caplog.at_level(logging.INFO, "hrnet_zoo"):
        _, chosen, trials = build(Plan(demo), fakes(second={"wrong": 0.02}, third={"wrong": 1}))
    assert chosen.engine == "first"
    assert trials[0].agreement == 1
    assert trials[1].agreement == pytest.approx(0.98, abs=0.01)
    assert trials[2].agreement == 0  # infinite logits
    (record,) = caplog.records
    assert record.message.startswith(
        "optimized with first float32 4000 ms for 256 x 512 pixels, not second float32 100"
    )
    assert "(98.4% of pixels agree)" in record.message


def test_one_that_cannot_run_is_out(
    demo: FCNHRNet, times: dict[str, list[float]], caplog: pytest.LogCaptureFixture
) -> None:
    times.update(first=[1] * 8, third=[2])
    with caplog.at_level(logging.WARNING):
        _, chosen, _ = build(Plan(demo), fakes(second={"error": "no such kernel\nat line 5"}))
    assert chosen.engine == "first"
    assert [each.message for each in caplog.records] == ["second float32 is left out: no such kernel"]
    with pytest.raises(RuntimeError, match="no such kernel"):
        build(Plan(demo), fakes(first={"error": "no such kernel"}))


def test_the_choice_is_remembered(demo: FCNHRNet, times: dict[str, list[float]], cache: Path) -> None:
    times.update(first=[4] * 4, second=[1] * 4, third=[2] * 4)
    _, chosen, trials = build(Plan(demo), fakes())
    assert build(Plan(demo), fakes())[1:] == (chosen, trials)  # made-up times are used up
    (path,) = cache.glob("v1/timings/*.json")
    facts = json.loads(path.read_text(encoding="utf-8"))
    assert (facts["threads"], facts["size"], facts["torch"]) == (torch.get_num_threads(), [256, 512], torch.__version__)
    for damage in (
        "",
        "{}",
        '{"trials": [{}]}',
        '{"trials": []}',
        path.read_text(encoding="utf-8").replace("1.0", "0"),
    ):
        path.write_text(damage, encoding="utf-8")
        times.update(first=[1] * 4, second=[4], third=[2])
        assert build(Plan(demo), fakes())[1].engine == "first"
        assert json.loads(path.read_text(encoding="utf-8"))["trials"][0]["milliseconds"] == 1000


OTHERS: dict[str, Callable[[pytest.MonkeyPatch, FCNHRNet], object]] = {
    "threads": lambda patch, _: patch.setattr("torch.get_num_threads", lambda: 77),
    "processor": lambda patch, _: patch.setattr(choice, "processor", lambda: "another"),
    "torch": lambda patch, _: patch.setattr("torch.__version__", "3.0"),
    "weights": lambda _, model: model.decode_head.conv_seg.weight.data.add_(1),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_circumstances_are_timed_anew(
    other: str, times: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create_model("demo", device="cpu")
    times.update(first=[4] * 4, second=[1] * 4, third=[2] * 4)
    build(Plan(model), fakes())
    OTHERS[other](monkeypatch, model)
    times.update(first=[4] * 4, second=[2] * 4, third=[1] * 4)
    assert build(Plan(model), fakes())[1].engine == "third"


def test_a_cache_that_cannot_be_written(
    demo: FCNHRNet, times: dict[str, list[float]], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("no folder", encoding="utf-8")
    times.update(first=[4] * 4, second=[1] * 4, third=[2] * 4)
    with caplog.at_level(logging.INFO, "hrnet_zoo"):
        assert build(Plan(demo), fakes())[1].engine == "second"
    assert "the next process will time the engines again" in caplog.records[0].message


def test_on_this_machine(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which one wins depends on the machine; all that were timed compute the same, and a changed network keeps it."""
    fast = optimize(demo)
    able = candidates(CPU)
    assert [each.candidate for each in fast.trials] == (list(map(str, able)) if len(able) > 1 else [])
    assert f"{fast.engine} {str(fast.dtype).removeprefix('torch.')}" in map(str, able)
    assert all(each.agreement > 0.99 for each in fast.trials)
    print("\n", fast, *fast.trials, sep="\n")  # noqa: T201 - pytest -s shows the choice
    monkeypatch.setattr(choice, "_try_out", pytest.fail)
    assert repr(optimize(demo)) == repr(fast)
    other = create_model("demo", device="cpu")
    kept = optimize(other)
    with torch.no_grad():
        other.decode_head.conv_seg.weight.mul_(2)
    assert repr(kept.ready()) == repr(fast)


@pytest.fixture
def _any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "usable", lambda _: True)
    monkeypatch.setattr(onednn, "has_native_bfloat16", lambda: True)
    monkeypatch.setattr(openvino, "dtypes", lambda: (torch.float32,))
    monkeypatch.setattr(openvino, "openvino", lambda: None)


@pytest.mark.usefixtures("_any_processor")
def test_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(engine: str | None = None, dtype: torch.dtype | None = None) -> list[str]:
        return list(map(str, candidates(CPU, engine, dtype)))

    assert names() == ["onednn float32", "openvino float32", "onednn bfloat16"]
    assert names("pytorch") == ["pytorch float32", "pytorch bfloat16"]
    assert names("openvino") == ["openvino float32"]
    assert names(dtype=torch.float32) == ["onednn float32", "openvino float32"]
    assert names(dtype=torch.float16) == ["onednn float16"]
    with pytest.raises(ConfigError, match=r"compute in torch\.bfloat16 on cpu are 'onednn', 'pytorch'"):
        names("openvino", torch.bfloat16)
    monkeypatch.setattr(onednn, "has_native_bfloat16", lambda: False)
    monkeypatch.setattr(openvino, "dtypes", lambda: ())
    assert names() == ["onednn float32"]
    monkeypatch.setattr(onednn, "usable", lambda _: False)
    assert names() == ["pytorch float32"]


def test_the_processor_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert choice.processor()
    monkeypatch.setattr(choice, "Path", lambda _: tmp_path / "absent")
    assert choice.processor() == (platform.processor() or platform.machine())
