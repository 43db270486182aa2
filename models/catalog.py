"""Find a model by name: the embedded one, a torchvision classifier, or a user's own factory."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchvision
from torch import nn

from models import glyphs
from models.preprocess import Preprocess
from models.torch_backbone import TorchBackbone
from models.weights import load_weights, read_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Model:
    """A network that is ready to serve.

    Attributes:
        backbone: The frozen network.
        preprocess: From decoded images to its input.
        labels: Name of each class, K of them.
    """

    backbone: TorchBackbone
    preprocess: Preprocess
    labels: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """What is known of an architecture before its weights are read."""

    build: Callable[[int | None], nn.Module]
    preprocess: Preprocess
    weights: Path | None = None
    labels: tuple[str, ...] = ()


def architectures() -> tuple[str, ...]:
    """Return the names that `load` knows, the embedded model first; a user's own is `package.module:factory`."""
    return ("glyphs", *torchvision.models.list_models(module=torchvision.models))


def load(
    architecture: str,
    *,
    weights: str | Path | None = None,
    sha256: str = "",
    labels: Sequence[str] | Path | None = None,
    classes: int | None = None,
    preprocess: Preprocess | None = None,
    head: str = "",
    device: str | torch.device = "cpu",
) -> Model:
    """Build a network, read its weights from a local file and freeze it.

    Args:
        architecture: "glyphs" (embedded, needs nothing else), a torchvision classifier such as "resnet50", or
            "package.module:factory", a function without arguments (or taking `num_classes` if `classes` is given) that
            returns an `nn.Module`.
        weights: Local file with the state dict. A factory may do without: its module is then served as it comes.
        sha256: Expected digest of that file; empty is not checked.
        labels: Names of the classes, or a text file with one a line; indices where nothing is known.
        classes: Number of classes; the architecture's own when None.
        preprocess: From image to input; the architecture's own when None.
        head: Path of the Linear layer that makes the logits; the last one when empty.
        device: Where to run.

    Raises:
        ValueError: If the name is unknown, the weights do not fit, or the labels do not match the classes.
    """
    source = _find(architecture)
    names = _labels(labels)
    own = ":" in architecture or architecture == "glyphs"
    module = source.build(classes if own else classes or len(names) or None)
    path = Path(weights) if weights else source.weights
    if path is not None:
        load_weights(module, read_weights(path, sha256), str(path))
    elif ":" not in architecture:
        raise ValueError(f"model '{architecture}' needs a local weights file; nothing is ever downloaded")
    preprocess = preprocess or source.preprocess
    backbone = TorchBackbone(
        module,
        preprocess.input_shape,
        name=architecture.rpartition(":")[2],
        head=head,
        mean=preprocess.mean,
        std=preprocess.std,
        device=device,
    )
    expected = backbone.spec.classes
    names = names or (source.labels if len(source.labels) == expected else tuple(map(str, range(expected))))
    if len(names) != expected:
        raise ValueError(f"model '{architecture}' has {expected} classes, got {len(names)} labels")
    return Model(backbone, preprocess, names)


def default_preprocess(architecture: str) -> Preprocess:
    """Return the preprocessing that `load` uses for `architecture` when it is given none.

    Raises:
        ValueError: If the name is unknown.
    """
    return _find(architecture).preprocess


def _find(architecture: str) -> _Source:
    if ":" in architecture:
        return _Source(_factory(architecture), _imagenet(crop=224, resize=256))
    if architecture == "glyphs":
        _, height, width = glyphs.INPUT_SHAPE
        preprocess = Preprocess((height, width), mean=glyphs.MEAN, std=glyphs.STD)
        return _Source(lambda _classes: glyphs.build(), preprocess, glyphs.WEIGHTS, glyphs.LABELS)
    if architecture in architectures():
        return _torchvision(architecture)
    raise ValueError(
        f"unknown model '{architecture}'; use 'glyphs', a torchvision classifier such as 'resnet50', "
        "or your own 'package.module:factory'"
    )


def _torchvision(name: str) -> _Source:
    preset = torchvision.models.get_model_weights(name).DEFAULT
    transform = preset.transforms()
    preprocess = replace(
        _imagenet(transform.crop_size[0], transform.resize_size[0]), interpolation=transform.interpolation.value
    )

    def build(classes: int | None) -> nn.Module:
        arguments = {} if classes is None else {"num_classes": classes}
        # The two inception networks warn, and draw random weights slowly, unless told not to.
        if name in ("googlenet", "inception_v3"):
            arguments["init_weights"] = False
        module: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
        return module

    return _Source(build, preprocess, labels=tuple(preset.meta["categories"]))


def _factory(architecture: str) -> Callable[[int | None], nn.Module]:
    module_name, _, attribute = architecture.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"model factory '{architecture}' cannot be imported: {error}") from error

    def build(classes: int | None) -> nn.Module:
        module = function() if classes is None else function(num_classes=classes)
        if not isinstance(module, nn.Module):
            raise ValueError(f"model factory '{architecture}' returned {type(module).__name__}, expected an nn.Module")
        return module

    return build


def _imagenet(crop: int, resize: int) -> Preprocess:
    return Preprocess((crop, crop), resize=resize, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _labels(labels: Sequence[str] | Path | None) -> tuple[str, ...]:
    if isinstance(labels, Path):
        if not labels.is_file():
            raise ValueError(f"labels file '{labels}' does not exist; write one class name a line")
        return tuple(line.strip() for line in labels.read_text(encoding="utf-8").splitlines() if line.strip())
    return tuple(labels or ())
