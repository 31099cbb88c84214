"""Pretrained HRNet for semantic segmentation: a name becomes a network, a photo becomes a labeled image.

    import hrnet_zoo

    hrnet_zoo.list_models("*cityscapes*")
    hrnet_zoo.model_info("fcn_hr48_cityscapes_160k").miou
    model = hrnet_zoo.create_model("fcn_hr48_cityscapes_160k")
    model.predict("street.jpg").overlay()

Importing this package does not import torch, open a connection or touch a file: names resolve on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hrnet_zoo import errors

if TYPE_CHECKING:
    from hrnet_zoo.datasets.check import DataReport as DataReport
    from hrnet_zoo.datasets.check import check_data as check_data
    from hrnet_zoo.datasets.prepare import prepare as prepare
    from hrnet_zoo.engines.optimize import OptimizedModel as OptimizedModel
    from hrnet_zoo.engines.optimize import optimize as optimize
    from hrnet_zoo.evaluation.benchmark import benchmark as benchmark
    from hrnet_zoo.evaluation.doctor import doctor as doctor
    from hrnet_zoo.evaluation.evaluate import Evaluation as Evaluation
    from hrnet_zoo.evaluation.evaluate import evaluate as evaluate
    from hrnet_zoo.evaluation.recommend import recommend as recommend
    from hrnet_zoo.exporting.export import ExportedFile as ExportedFile
    from hrnet_zoo.exporting.export import export as export
    from hrnet_zoo.inference.maps import MapReport as MapReport
    from hrnet_zoo.inference.maps import predict_map as predict_map
    from hrnet_zoo.inference.result import SegmentationResult as SegmentationResult
    from hrnet_zoo.inference.video import predict_video as predict_video
    from hrnet_zoo.models.fcn import FCNHRNet as FCNHRNet
    from hrnet_zoo.training.finetune import FineTuning as FineTuning
    from hrnet_zoo.training.finetune import finetune as finetune
    from hrnet_zoo.zoo.catalog import ModelInfo as ModelInfo
    from hrnet_zoo.zoo.catalog import list_models as list_models
    from hrnet_zoo.zoo.catalog import model_info as model_info
    from hrnet_zoo.zoo.create import create_backbone as create_backbone
    from hrnet_zoo.zoo.create import create_model as create_model
    from hrnet_zoo.zoo.push import push as push
    from hrnet_zoo.zoo.training_log import training_log as training_log

__version__ = "0.1.0"

_HOMES = {  # in the order of the flow
    "list_models": "zoo.catalog",
    "model_info": "zoo.catalog",
    "ModelInfo": "zoo.catalog",
    "create_model": "zoo.create",
    "create_backbone": "zoo.create",
    "FCNHRNet": "models.fcn",
    "SegmentationResult": "inference.result",
    "predict_map": "inference.maps",
    "MapReport": "inference.maps",
    "predict_video": "inference.video",
    "optimize": "engines.optimize",
    "OptimizedModel": "engines.optimize",
    "export": "exporting.export",
    "ExportedFile": "exporting.export",
    "check_data": "datasets.check",
    "DataReport": "datasets.check",
    "prepare": "datasets.prepare",
    "evaluate": "evaluation.evaluate",
    "Evaluation": "evaluation.evaluate",
    "training_log": "zoo.training_log",
    "recommend": "evaluation.recommend",
    "benchmark": "evaluation.benchmark",
    "finetune": "training.finetune",
    "FineTuning": "training.finetune",
    "push": "zoo.push",
    "doctor": "evaluation.doctor",
}

__all__ = [*_HOMES, "errors"]

_INSTEAD = {  # names in other libraries
    **dict.fromkeys(("from_pretrained", "load_model", "load", "get_model", "init_model", "AutoModel"), "create_model"),
    **dict.fromkeys(("predict", "inference_model", "pipeline"), "create_model(name).predict(image)"),
    **dict.fromkeys(("train", "fit"), "finetune"),
    **dict.fromkeys(("val", "validate", "test"), "evaluate"),
    "list_pretrained": "list_models",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name not in _HOMES:
        hint = f"; use hrnet_zoo.{_INSTEAD[name]}" if name in _INSTEAD else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
