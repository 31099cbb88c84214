"""Importing the package costs nothing and touches nothing."""

import subprocess
import sys

import pytest

import hrnet_zoo

AUDIT = """
import sys
events = []
sys.addaudithook(lambda name, args: events.append((name, args)))
import hrnet_zoo
hrnet_zoo.list_models()
heavy = sorted({"torch", "numpy", "PIL", "requests", "huggingface_hub", "safetensors"} & set(sys.modules))
sockets = [event for event in events if event[0].startswith("socket")]
opened = [str(args[0]) for name, args in events if name == "open" and not str(args[0]).endswith((".py", ".pyc"))]
written = [args for name, args in events if name == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")]
written = [args for args in written if ".pyc" not in str(args[0])]
print(heavy, sockets, [path for path in opened if ".pyc." not in path], written)
"""


def test_import_and_list_load_nothing_heavy_and_touch_nothing() -> None:
    run = subprocess.run([sys.executable, "-c", AUDIT], capture_output=True, text=True, check=True)  # noqa: S603
    assert run.stdout.strip() == "[] [] [] []"


def test_training_logs_need_no_torch() -> None:
    code = "import sys, hrnet_zoo; hrnet_zoo.training_log; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert run.stdout == "False\n"


def test_public_names_resolve() -> None:
    for name in hrnet_zoo.__all__:
        assert getattr(hrnet_zoo, name) is not None
        assert name in dir(hrnet_zoo)


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'create_modle'"):
        hrnet_zoo.create_modle  # noqa: B018
    for name, hint in (("from_pretrained", "create_model"), ("train", "finetune"), ("predict", r"predict\(image\)")):
        with pytest.raises(AttributeError, match=f"use hrnet_zoo.{hint}|use .*{hint}"):
            getattr(hrnet_zoo, name)
