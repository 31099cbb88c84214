"""What a callback and trackers hear of a training; `test_finetune.py` has whole runs."""

from pathlib import Path
from typing import Any

import pytest

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.training.events import Listeners, TrainingEvent, accelerate_state, make_trackers

pytest.importorskip("accelerate")


class Recorder:
    """A tracker that keeps what it gets, and fails where it is told to."""

    def __init__(self, name: str = "recorder", fails: str = "") -> None:
        self.name, self.fails = name, fails
        self.calls: list[Any] = []

    def _note(self, method: str, *given: Any) -> None:
        self.calls.append((method, *given))
        if method == self.fails:
            raise ConnectionError("the server is gone")

    def start(self) -> None:
        """Begin."""
        self._note("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Take the arguments."""
        self._note("config", values)

    def log(self, values: dict[str, Any], step: int) -> None:
        """Take figures."""
        self._note("log", values, step)

    def finish(self) -> None:
        """End."""
        self._note("finish")


def event(kind: Any, step: int, **figures: float) -> TrainingEvent:
    return TrainingEvent(kind, step, 9, figures, None, None, None, Path("out"))


EVENTS = [event("update", 1, loss=2.0), event("validation", 1, **{"IoU.crack (a=1)": 50.0}), event("end", 1)]


def test_trackers_get_plain_values_under_names_that_all_of_them_take() -> None:
    tracker = Recorder()
    listeners = Listeners(None, [tracker], {"lr": 0.1, "crop": [64, 64], "freeze": ""})
    assert not any(listeners.tell(each) for each in EVENTS)
    assert tracker.calls == [
        ("start",),
        ("config", {"lr": 0.1, "crop": "[64, 64]", "freeze": ""}),
        ("log", {"train/loss": 2.0}, 1),
        ("log", {"val/IoU.crack _a_1_": 50.0}, 1),
        ("finish",),
    ]


@pytest.mark.parametrize(
    ("fails", "called"),
    [
        ("start", ["start"]),
        ("config", ["start", "config", "finish"]),
        ("log", ["start", "config", "log", "finish"]),
        ("finish", ["start", "config", "log", "log", "finish"]),
    ],
)
def test_a_tracker_that_fails_is_warned_of_once_and_the_others_go_on(
    fails: str, called: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = Recorder("broken", fails), Recorder()
    listeners = Listeners(None, [broken, sound], {"lr": 0.1})
    for each in EVENTS:
        listeners.tell(each)
    assert [call[0] for call in broken.calls] == called
    assert [call[0] for call in sound.calls] == ["start", "config", "log", "log", "finish"]
    (record,) = caplog.records
    assert "broken failed, and the run goes on: ConnectionError: the server is gone" in record.getMessage()


@pytest.mark.parametrize(("answer", "stops"), [("stop", True), (True, False), (7, False), (None, False)])
def test_only_the_word_stops(answer: object, stops: bool) -> None:
    assert Listeners(lambda event: answer, [], {}).tell(EVENTS[0]) is stops


def test_a_callback_that_fails_is_warned_of_once_and_called_again(caplog: pytest.LogCaptureFixture) -> None:
    heard = []

    def fail(event: TrainingEvent) -> object:
        heard.append(event)
        return {"reset": 0}[event.kind]

    listeners = Listeners(fail, [], {})
    assert not any(listeners.tell(each) for each in EVENTS)
    assert heard == EVENTS
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "on_event failed, and the run goes on: KeyError: 'update'"
    ]


def test_events_for_tensorboard_go_on_where_a_run_is_resumed(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for step, losses in ((0, (2.0, 1.5, 1.25)), (2, (9.0,))):
        with accelerate_state():
            listeners = Listeners(None, make_trackers("tensorboard", tmp_path, step), {} if step else {"lr": 0.1})
            for number, loss in enumerate(losses, start=step + 1):
                listeners.tell(event("update", number, loss=loss))
            listeners.tell(event("end", step))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(each.step, each.value) for each in events.Scalars("train/loss")] == [(1, 2.0), (2, 1.5), (3, 9.0)]


@pytest.mark.filterwarnings("default")  # whatever MLflow's own dependencies deprecate
def test_mlflow_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    with accelerate_state():
        listeners = Listeners(None, make_trackers(["mlflow"], tmp_path / "a", 0), {"lr": 0.1, "crop": [64, 64]})
        for each in EVENTS:
            listeners.tell(each)
    (run,) = mlflow.search_runs(experiment_names=["hrnet-zoo"], output_format="list")
    assert run.info.run_name == "a"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1", "crop": "[64, 64]"}
    assert run.data.metrics == {"train/loss": 2.0, "val/IoU.crack _a_1_": 50.0}


@pytest.mark.filterwarnings("default")  # whatever its own dependencies deprecate
def test_weights_and_biases_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    with accelerate_state():
        listeners = Listeners(None, make_trackers("wandb", tmp_path / "a", 0), {"lr": 0.1, "crop": [64, 64]})
        for each in EVENTS:
            listeners.tell(each)
    assert not [record for record in caplog.records if record.name == "hrnet_zoo"]
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    written = file.read_bytes()
    assert all(name in written for name in (b"hrnet-zoo", b"train/loss", b"val/IoU.crack _a_1_", b"[64, 64]"))


def test_a_tracker_may_write_to_accelerates_log(caplog: pytest.LogCaptureFixture) -> None:
    from accelerate import PartialState
    from accelerate.logging import get_logger

    class Talking(Recorder):
        def start(self) -> None:
            get_logger("tests").info("started")

    with accelerate_state():
        PartialState._shared_state.clear()
        Listeners(None, [Talking()], {})
    assert not [record for record in caplog.records if record.name == "hrnet_zoo"]


def test_accelerates_state_is_left_as_it_was() -> None:
    from accelerate import PartialState

    before = dict(PartialState._shared_state)
    PartialState._shared_state.clear()
    with accelerate_state():
        PartialState()
        assert PartialState._shared_state
    assert not PartialState._shared_state
    PartialState._shared_state.update(before)


@pytest.mark.parametrize(
    ("trackers", "words"),
    [
        (["tensorbord"], r"(?s)with the tracker 'tensorbord'.*accelerate has aim, .*tensorboard, "),
        ("aim", r"(?s)with the tracker 'aim'.*its package is not installed.*pip install aim"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused(trackers: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        make_trackers(trackers, tmp_path, 0)


def test_without_accelerate_trackers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "accelerate.tracking", None)
    with pytest.raises(ConfigError, match=r"pip install 'hrnet-zoo\[train\]'"):
        make_trackers(["tensorboard"], tmp_path, 0)
