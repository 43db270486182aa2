"""Where networks come from: the embedded one, torchvision, timm, Hugging Face, files of ONNX and torch, factories."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from tta_server.models import glyphs
from tta_server.models.importing import import_object
from tta_server.models.libraries import hf_source, timm_source
from tta_server.models.onnx_file import SUFFIX, onnx_source
from tta_server.models.origin import Origin
from tta_server.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from tta_server.models.reason import reason
from tta_server.models.torch_file import SUFFIXES, torch_file_source
from tta_server.models.wide_resnet import CIFAR10_LABELS, WideResNet

# The published weights expect images in [-1, 1], which the network does itself if told to. The two warn, and draw
# random weights slowly, unless told not to.
_INCEPTION = {name: {"init_weights": False, "transform_input": True} for name in ("googlenet", "inception_v3")}


def architectures() -> tuple[str, ...]:
    """Return the names that need nothing else, the embedded model first."""
    import torchvision  # where it is asked for: it takes as long as torch, and 160 MB

    return ("glyphs", "wrn-28-10", *torchvision.models.list_models(module=torchvision.models))


def default_preprocess(architecture: str) -> Preprocess:
    """Return the preprocessing that `load` uses for `architecture` when it is given none.

    Raises:
        ValueError: If the name is unknown.
    """
    return find(architecture).preprocess


def own_file(architecture: str) -> Path | None:
    """Return the file that a model is, its weights in it; None if it is named otherwise."""
    return Path(architecture) if architecture.endswith((SUFFIX, *SUFFIXES)) else None


def find(architecture: str) -> Origin:
    """Return what is known of an architecture.

    Raises:
        ValueError: If the name is unknown, a library or folder is missing, or a factory cannot be imported.
    """
    if architecture.endswith(SUFFIX):
        return onnx_source(Path(architecture))
    if architecture.endswith(SUFFIXES):
        return torch_file_source(Path(architecture))
    library, _, name = architecture.partition("/")
    if library == "timm":
        return timm_source(name)
    if library == "hf":
        return hf_source(Path(name))
    if ":" in architecture:
        return Origin(_factory(architecture), _imagenet(crop=224, resize=256))
    if architecture == "glyphs":
        _, height, width = glyphs.INPUT_SHAPE
        preprocess = Preprocess((height, width), mean=glyphs.MEAN, std=glyphs.STD)
        return Origin(lambda _classes: glyphs.build(), preprocess, glyphs.WEIGHTS, glyphs.LABELS, glyphs.REFERENCE)
    if architecture == "wrn-28-10":
        return Origin(lambda classes: WideResNet(classes=classes or 10), Preprocess((32, 32)), labels=CIFAR10_LABELS)
    if architecture in architectures():
        return _torchvision(architecture)
    raise ValueError(
        f"unknown model '{architecture}'; use 'glyphs', a torchvision classifier such as 'resnet50', "
        "'timm/NAME', 'hf/FOLDER', 'FILE.onnx', 'FILE.pt', 'FILE.pt2', or your own 'package.module:factory'"
    )


def _torchvision(name: str) -> Origin:
    import torchvision

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

    return Origin(build, preprocess, labels=tuple(preset.meta["categories"]))


def _factory(architecture: str) -> Callable[[int | None], nn.Module]:
    function = import_object(architecture, "model factory")

    def build(classes: int | None) -> nn.Module:
        try:
            module = function() if classes is None else function(num_classes=classes)
        except Exception as error:  # a user's function may fail in any way
            raise ValueError(f"model factory '{architecture}' failed: {reason(error)}") from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"model factory '{architecture}' returned {type(module).__name__}, expected an nn.Module")
        return module

    return build


def _imagenet(crop: int, resize: int) -> Preprocess:
    return Preprocess((crop, crop), resize=resize, mean=IMAGENET_MEAN, std=IMAGENET_STD)
