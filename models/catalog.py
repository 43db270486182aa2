"""Find a model by name: the embedded one, a torchvision classifier, or a user's own factory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from tta_server.models import glyphs
from tta_server.models.importing import import_object
from tta_server.models.preprocess import Preprocess
from tta_server.models.reference import Reference, beside, load_reference
from tta_server.models.torch_backbone import TorchBackbone
from tta_server.models.weights import load_weights, read_weights
from tta_server.models.wide_resnet import CIFAR10_LABELS, WideResNet

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The published weights expect images in [-1, 1], which the network does itself if told to. The two warn, and draw
# random weights slowly, unless told not to.
_INCEPTION = {name: {"init_weights": False, "transform_input": True} for name in ("googlenet", "inception_v3")}


@dataclass(frozen=True)
class Model:
    """A network that is ready to serve.

    Attributes:
        backbone: The frozen network.
        preprocess: From decoded images to its input.
        labels: Name of each class, K of them.
        reference: What is known of the source data; None if nothing is.
    """

    backbone: TorchBackbone
    preprocess: Preprocess
    labels: tuple[str, ...]
    reference: Reference | None = None


@dataclass(frozen=True)
class Custom:
    """What a user's model has in place of what the architecture has by itself.

    Attributes:
        labels: Names of the classes, or a text file with one a line; the architecture's own, or indices, when None.
        classes: Number of classes; the architecture's own when None.
        preprocess: From image to input; the architecture's own when None.
        head: Path of the Linear layer that makes the logits; the last one when empty.
    """

    labels: Sequence[str] | str | Path | None = None
    classes: int | None = None
    preprocess: Preprocess | None = None
    head: str = ""


@dataclass(frozen=True)
class _Source:
    """What is known of an architecture before its weights are read."""

    build: Callable[[int | None], nn.Module]
    preprocess: Preprocess
    weights: Path | None = None
    labels: tuple[str, ...] = ()
    reference: Path | None = None


def architectures() -> tuple[str, ...]:
    """Return the names that `load` knows, the embedded model first; a user's own is `package.module:factory`."""
    return ("glyphs", "wrn-28-10", *torchvision.models.list_models(module=torchvision.models))


def load(
    architecture: str,
    *,
    weights: str | Path | None = None,
    sha256: str = "",
    custom: Custom = Custom(),
    device: str | torch.device = "cpu",
    reference: str | Path | None = None,
    calibrated: bool = True,
) -> Model:
    """Build a network, read its weights from a local file and freeze it.

    Args:
        architecture: "glyphs" (embedded, needs nothing else), a torchvision classifier such as "resnet50",
            "wrn-28-10" (CIFAR, in RobustBench's layout), or
            "package.module:factory", a function without arguments (or taking `num_classes` if `custom.classes` is
            given) that returns an `nn.Module`; the folder in which the process was started is searched too.
        weights: Local file with the state dict. A factory may do without: its module is then served as it comes.
        sha256: Expected digest of that file; empty is not checked.
        custom: What is not as the architecture has it.
        device: Where to run.
        reference: The reference bundle that 'tta-server calibrate' wrote. If None, the architecture's own for its own
            weights, else `<stem of the weights>.reference.safetensors` next to the weights if there is one.
        calibrated: Whether to look for a bundle at all; not so while one is made.

    Raises:
        ValueError: If the name is unknown, the factory fails, the weights do not fit, the labels do not match the
            classes, or the bundle is damaged or was made with other weights.
    """
    source = _find(architecture)
    names, classes = _labels(custom.labels), custom.classes
    own = ":" in architecture or architecture == "glyphs"
    module = source.build(classes if own else classes or len(names) or None)
    path = Path(weights) if weights else source.weights
    if path is not None:
        load_weights(module, read_weights(path, sha256), str(path))
    elif ":" not in architecture:
        raise ValueError(f"model '{architecture}' needs a local weights file; nothing is ever downloaded")
    preprocess = custom.preprocess or source.preprocess
    try:
        backbone = TorchBackbone(
            module,
            preprocess.input_shape,
            name=architecture.rpartition(":")[2],
            head=custom.head,
            mean=preprocess.mean,
            std=preprocess.std,
            device=device,
        )
    except ValueError:
        raise
    except Exception as error:  # a network may be anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"model '{architecture}' cannot be served: {reason}") from error
    expected = backbone.spec.classes
    if classes not in (None, expected):
        raise ValueError(f"model '{architecture}' has {expected} classes, not the {classes} asked for")
    names = names or (source.labels if len(source.labels) == expected else tuple(map(str, range(expected))))
    if len(names) != expected:
        raise ValueError(f"model '{architecture}' has {expected} classes, got {len(names)} labels")
    bundle = _bundle(source, path, reference) if calibrated else None
    return Model(backbone, preprocess, names, load_reference(bundle, backbone) if bundle else None)


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
        return _Source(lambda _classes: glyphs.build(), preprocess, glyphs.WEIGHTS, glyphs.LABELS, glyphs.REFERENCE)
    if architecture == "wrn-28-10":
        return _Source(lambda classes: WideResNet(classes=classes or 10), Preprocess((32, 32)), labels=CIFAR10_LABELS)
    if architecture in architectures():
        return _torchvision(architecture)
    raise ValueError(
        f"unknown model '{architecture}'; use 'glyphs', a torchvision classifier such as 'resnet50', "
        "or your own 'package.module:factory'"
    )


def _bundle(source: _Source, weights: Path | None, reference: str | Path | None) -> Path | None:
    if reference is not None:
        return Path(reference)
    if weights is None or weights == source.weights:
        return source.reference
    return beside(weights) if beside(weights).is_file() else None


def _torchvision(name: str) -> _Source:
    preset = torchvision.models.get_model_weights(name).DEFAULT
    transform = preset.transforms()
    preprocess = Preprocess(
        (transform.crop_size[0], transform.crop_size[0]),
        resize=transform.resize_size[0],
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )

    def build(classes: int | None) -> nn.Module:
        arguments: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        module: nn.Module = torchvision.models.get_model(name, weights=None, **arguments | _INCEPTION.get(name, {}))
        return module

    return _Source(build, preprocess, labels=tuple(preset.meta["categories"]))


def _factory(architecture: str) -> Callable[[int | None], nn.Module]:
    function = import_object(architecture, "model factory")

    def build(classes: int | None) -> nn.Module:
        try:
            module = function() if classes is None else function(num_classes=classes)
        except Exception as error:  # a user's function may fail in any way
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"model factory '{architecture}' failed: {reason}") from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"model factory '{architecture}' returned {type(module).__name__}, expected an nn.Module")
        return module

    return build


def _imagenet(crop: int, resize: int) -> Preprocess:
    return Preprocess((crop, crop), resize=resize, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _labels(labels: Sequence[str] | str | Path | None) -> tuple[str, ...]:
    if isinstance(labels, (str, Path)):
        path = Path(labels)
        if not path.is_file():
            raise ValueError(f"labels file '{path}' does not exist; write one class name a line")
        # Some editors put a byte order mark in front, which would become part of the first name.
        return tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    return tuple(labels or ())
