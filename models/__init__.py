"""The frozen side: networks, their normalisation layers, preprocessing and the catalog of models."""

from tta_server.models.backbone import EMPTY, Backbone, Findings, Output, Spec, Statistics, Tensors, TooFewValuesError
from tta_server.models.catalog import Custom, Model, load
from tta_server.models.preprocess import Preprocess
from tta_server.models.reference import Reference, load_reference
from tta_server.models.torch_backbone import TorchBackbone

__all__ = [
    "EMPTY",
    "Backbone",
    "Custom",
    "Findings",
    "Model",
    "Output",
    "Preprocess",
    "Reference",
    "Spec",
    "Statistics",
    "Tensors",
    "TooFewValuesError",
    "TorchBackbone",
    "load",
    "load_reference",
]
