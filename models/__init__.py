"""The frozen side: networks, their normalisation layers, preprocessing and the catalog of models."""

from models.backbone import EMPTY, Backbone, Output, Spec, Statistics, Tensors
from models.catalog import Model, load
from models.preprocess import Preprocess
from models.reference import Reference, load_reference
from models.torch_backbone import TorchBackbone

__all__ = [
    "EMPTY",
    "Backbone",
    "Model",
    "Output",
    "Preprocess",
    "Reference",
    "Spec",
    "Statistics",
    "Tensors",
    "TorchBackbone",
    "load",
    "load_reference",
]
