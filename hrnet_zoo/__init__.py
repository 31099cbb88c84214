"""Pretrained HRNet for semantic segmentation: a name becomes a network, a photo becomes a labelled picture.

    import hrnet_zoo

    hrnet_zoo.list_models("*cityscapes*")
    hrnet_zoo.model_info("fcn_hr48_cityscapes_160k").miou
    model = hrnet_zoo.create_model("fcn_hr48_cityscapes_160k")
    model.predict("street.jpg").overlay()

Importing this package imports no torch, opens no connection and touches no file: names resolve on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hrnet_zoo import errors

if TYPE_CHECKING:
    from hrnet_zoo.acceleration import OptimizedModel, optimize
    from hrnet_zoo.benchmarking import benchmark
    from hrnet_zoo.catalog import ModelInfo, list_models, model_info
    from hrnet_zoo.checking import DataReport, check_data
    from hrnet_zoo.creation import create_model
    from hrnet_zoo.diagnosis import doctor
    from hrnet_zoo.evaluation import evaluate
    from hrnet_zoo.finetuning import FineTuning, finetune
    from hrnet_zoo.logs import training_log
    from hrnet_zoo.models.fcn import FCNHRNet
    from hrnet_zoo.publishing import push
    from hrnet_zoo.results import SegmentationResult
    from hrnet_zoo.scorecard import Evaluation

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - in the order of the flow
    "list_models",
    "model_info",
    "ModelInfo",
    "create_model",
    "FCNHRNet",
    "SegmentationResult",
    "optimize",
    "OptimizedModel",
    "check_data",
    "DataReport",
    "evaluate",
    "Evaluation",
    "training_log",
    "benchmark",
    "finetune",
    "FineTuning",
    "push",
    "doctor",
    "errors",
]

_HOMES = {
    "list_models": "catalog",
    "model_info": "catalog",
    "ModelInfo": "catalog",
    "create_model": "creation",
    "FCNHRNet": "models.fcn",
    "SegmentationResult": "results",
    "optimize": "acceleration",
    "OptimizedModel": "acceleration",
    "check_data": "checking",
    "DataReport": "checking",
    "evaluate": "evaluation",
    "Evaluation": "scorecard",
    "training_log": "logs",
    "benchmark": "benchmarking",
    "finetune": "finetuning",
    "FineTuning": "finetuning",
    "push": "publishing",
    "doctor": "diagnosis",
}

_INSTEAD = {  # what people of other libraries type
    **dict.fromkeys(("from_pretrained", "load_model", "load", "get_model", "init_model", "AutoModel"), "create_model"),
    **dict.fromkeys(("predict", "inference_model", "pipeline"), "create_model(name).predict(image)"),
    **dict.fromkeys(("train", "fit"), "finetune"),
    **dict.fromkeys(("val", "validate", "test"), "evaluate"),
    "list_pretrained": "list_models",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what a module holds
    if name not in _HOMES:
        hint = f"; use hrnet_zoo.{_INSTEAD[name]}" if name in _INSTEAD else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
