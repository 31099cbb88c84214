"""The command `recommend`: its table, its advice, and its exit codes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from hrnet_zoo.engines.optimize import optimize
from hrnet_zoo.evaluation import recommend as recommending
from tests.cli.conftest import Run


def test_recommend(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recommending, "list_models", lambda dataset: [f"fcn_hr18s_{dataset}_40k"])
    monkeypatch.setattr(recommending, "optimize", partial(optimize, engine="pytorch"))
    monkeypatch.setattr(recommending, "_milliseconds", lambda row, like, image: 40.0)
    arguments = "recommend", "--dataset", "voc12aug", "--device", "cpu"
    text = run(*arguments, "--max-ms", "50", "--plot", str(tmp_path / "plot.png"))
    assert "images of 375 x 500 pixels" in text
    assert "fcn_hr18s_voc12aug_40k       3.9 M  66.61          40 ms\n" in text
    assert "take fcn_hr18s_voc12aug_40k\n" in text
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    assert "no network keeps to 30 ms: the fastest takes 40" in run(*arguments, "--max-ms", "30")
    assert json.loads(run(*arguments, "--json"))["choices"][0]["miou"] == 66.61
    run(*arguments, "--plot", str(tmp_path / "plot.png"), code=5)
    run("recommend", "--data", str(tmp_path / "absent"), code=5)
