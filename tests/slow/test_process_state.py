"""What a user set around our calls changes no result of them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import hrnet_zoo
from tests.support.training_data import write_own_folder
from tests.test_process_state import IMAGE


@contextmanager
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default dtype": float64_by_default,
    "default device": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.usefixtures("quick_demo")
def test_settings_around_change_no_result(tmp_path: Path) -> None:
    folder = write_own_folder(tmp_path / "data", 4, height=64, width=96)

    def work(name: str) -> tuple[Any, ...]:
        created = hrnet_zoo.create_model("demo", device="cpu", classes=["sky", "road"])
        options: dict[str, Any] = {"batch": 2, "crop": (64, 64), "resize_to": (96, 64), "val": 0.5, "device": "cpu"}
        out = tmp_path / name
        run = hrnet_zoo.finetune(
            "demo", folder, out, steps=1, workers=0, progress=False, ema=0.9, class_weights="auto", **options
        )
        model = hrnet_zoo.create_model(f"local-dir:{out}", device="cpu")
        again = hrnet_zoo.create_model(f"local-dir:{model.save_pretrained(tmp_path / f'{name}-saved')}", device="cpu")
        untrained = hrnet_zoo.create_model("demo", pretrained=False, device="cpu")
        for network in (created, model, again, untrained):
            kinds = {(each.dtype, each.device.type, each.requires_grad) for each in network.parameters()}
            assert kinds == {(torch.float32, "cpu", True)}
            assert not any(each.is_inference() for each in network.state_dict().values())
        scores = hrnet_zoo.evaluate(model, folder, workers=0, progress=False)
        return run.loss, run.miou, scores.miou, created.predict(IMAGE).mask.tolist(), again.predict(IMAGE).mask.tolist()

    wanted = work("plain")
    for name, setting in SETTINGS.items():
        with setting():
            found = work(name)
        assert found == wanted, name
