"""A file that disagrees with its network is refused with the figures."""

import ast

import pytest

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.exporting.agreement import LEAST_AGREEMENT
from hrnet_zoo.exporting.metadata import Agreement
from hrnet_zoo.exporting.worker import _require_agreement
from tests.test_house import PACKAGE, imports


def one(scene: str, share: float) -> Agreement:
    return Agreement(scene, 1, (33, 33), (100, 100), share, 0.5, 30.0)


def test_too_few_pixels() -> None:
    with pytest.raises(ConfigError, match=r'precision="fp32"') as caught:
        _require_agreement("export demo to a.onnx", [one("odd", 1.0), one("large", 0.9897)], LEAST_AGREEMENT["int8"])
    assert "99.4850% of the pixels" in caught.value.found
    assert "at least 99.50% are required (100.0000% at odd, 98.9700% at large)" in caught.value.found
    assert caught.value.done == "nothing was written"


def test_enough_pixels() -> None:
    _require_agreement("", [one("odd", 1.0), one("large", 0.9999)], LEAST_AGREEMENT["fp32"])
    with pytest.raises(ConfigError):
        _require_agreement("", [one("odd", 1.0), one("large", 0.9997)], LEAST_AGREEMENT["fp32"])
    with pytest.raises(ConfigError):
        _require_agreement("", [one("nothing", float("nan"))], LEAST_AGREEMENT["fp16"])


def test_the_worker_alone_imports_what_traces() -> None:
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        } | {name for name, _ in imports(path)}
        assert "hrnet_zoo.exporting.worker" not in names, path
        assert "hrnet_zoo.exporting.formats" not in names or path.name == "worker.py", path
