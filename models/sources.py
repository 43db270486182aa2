"""Where networks come from: the embedded one, torchvision, timm, Hugging Face, files of ONNX and torch, factories."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from tta_server.models import glyphs
from tta_server.models.freeze import bare
from tta_server.models.importing import import_object
from tta_server.models.libraries import hf_source, timm_source
from tta_server.models.onnx_file import SUFFIX, onnx_source
from tta_server.models.origin import IMAGENET, Origin
from tta_server.models.preprocess import Preprocess
from tta_server.models.reason import reason
from tta_server.models.torch_file import SUFFIXES, torch_file_source
from tta_server.models.weights import digest
from tta_server.models.wide_resnet import CIFAR10_LABELS, WideResNet

# The published weights expect images in [-1, 1], which the network does itself if told to. The two warn, and draw
# random weights slowly, unless told not to.
_INCEPTION = {name: {"init_weights": False, "transform_input": True} for name in ("googlenet", "inception_v3")}


def architectures() -> tuple[str, ...]:
    """Return the names that need nothing else, the embedded model first."""
    import torchvision  # where it is asked for: it takes as long as torch, and 160 MB

    return ("glyphs", "wrn-28-10", *torchvision.models.list_models(module=torchvision.models))


def own_file(architecture: str) -> Path | None:
    """Return the file that a model is, its weights in it; None if it is named otherwise."""
    return Path(architecture) if architecture.endswith((SUFFIX, *SUFFIXES)) else None


def is_factory(architecture: str) -> bool:
    """Return whether a user's own function makes the network."""
    return ":" in architecture and not own_file(architecture) and not architecture.startswith(("timm/", "hf/"))


def find(architecture: str, weights: Path | None = None, arguments: Mapping[str, Any] = MappingProxyType({})) -> Origin:
    """Return what is known of an architecture.

    Args:
        architecture: Its name.
        weights: The file that is going to be read: which of torchvision's published weights it holds says how images
            are prepared.
        arguments: Keyword arguments of a factory.

    Raises:
        ValueError: If the name is unknown, a library or folder is missing, a factory cannot be imported, or there are
            arguments for what is no factory.
    """
    if arguments and not is_factory(architecture):
        raise ValueError(
            f"model.arguments are for a function of your own, 'package.module:factory'; '{architecture}' takes none"
        )
    if architecture.endswith(SUFFIX):
        return onnx_source(Path(architecture))
    if architecture.endswith(SUFFIXES):
        return torch_file_source(Path(architecture))
    library, _, name = architecture.partition("/")
    if library == "timm":
        return timm_source(name)
    if library == "hf":
        return hf_source(Path(name))
    if is_factory(architecture):
        return Origin(_factory(architecture, arguments), IMAGENET)
    if architecture == "glyphs":
        _, height, width = glyphs.INPUT_SHAPE
        preprocess = Preprocess((height, width), mean=glyphs.MEAN, std=glyphs.STD)
        return Origin(lambda _classes: glyphs.build(), preprocess, glyphs.WEIGHTS, glyphs.LABELS, glyphs.REFERENCE)
    if architecture == "wrn-28-10":
        return Origin(lambda classes: WideResNet(classes=classes or 10), Preprocess((32, 32)), labels=CIFAR10_LABELS)
    if architecture in architectures():
        return _torchvision(architecture, weights)
    raise ValueError(
        f"unknown model '{architecture}'; use 'glyphs', a torchvision classifier such as 'resnet50', "
        "'timm/NAME', 'hf/FOLDER', 'FILE.onnx', 'FILE.pt', 'FILE.pt2', or your own 'package.module:factory'"
    )


def _torchvision(name: str, file: Path | None) -> Origin:
    import torchvision

    published = torchvision.models.get_model_weights(name)
    # One of vgg16's is no classifier.
    prepared = {each: _torchvision_preprocess(each.transforms()) for each in published if each.meta["categories"]}
    several = len(set(prepared.values())) > 1
    found = _held(file, prepared) if file and (several or name in _INCEPTION) else None
    weights = found or published.DEFAULT
    arguments: dict[str, Any] = dict(_INCEPTION.get(name, {}))
    if name.startswith("vit_"):  # its positions are for one size
        arguments["image_size"] = prepared[weights].size[0]

    def build(classes: int | None) -> nn.Module:
        own = arguments if classes is None else arguments | {"num_classes": classes}
        module: nn.Module = torchvision.models.get_model(name, weights=None, **own)
        return module

    caution = ""
    if several and not found:
        others = (f"'{_mark(each)}' ({each.name})" for each in prepared if each is not weights)
        caution = (
            f"images are prepared as for torchvision's {weights.name}, as it cannot be seen whose weights these are; "
            f"if they are, or were trained from, others, have the file's name hold {' or '.join(others)}, or set "
            "model.preprocess"
        )
    form = ""
    if name in _INCEPTION and not found:
        form = (
            "it is built as torchvision's own weights are used, with transform_input=True and its auxiliary heads; for "
            f"one that was trained otherwise, take 'torchvision.models:{name}' and say so in model.arguments"
        )
    return Origin(build, prepared[weights], labels=tuple(weights.meta["categories"]), caution=caution, form=form)


def _torchvision_preprocess(transform: Any) -> Preprocess:  # noqa: ANN401
    return Preprocess(
        (transform.crop_size[0], transform.crop_size[0]),
        resize=transform.resize_size[0],
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def _held(file: Path, published: Iterable[Any]) -> Any:  # noqa: ANN401
    """Return which of torchvision's weights a file holds, by its name or what is in it; None if that is unknown."""
    named = next((each for each in published if _mark(each) in file.name), None)
    if named or not file.is_file():
        return named
    sha256 = digest(file)
    return next((each for each in published if sha256.startswith(_mark(each))), None)


def _mark(published: Any) -> str:  # noqa: ANN401
    """Return the first digits of the SHA-256 of torchvision's file, in which its name ends."""
    return str(published.url).rpartition("-")[2].removesuffix(".pth")


def _factory(architecture: str, arguments: Mapping[str, Any]) -> Callable[[int | None], nn.Module]:
    function = import_object(architecture, "model factory")

    def build(classes: int | None) -> nn.Module:
        given = {} if classes is None else {"num_classes": classes}
        try:
            module = function(**given | dict(arguments))
        except Exception as error:  # a user's function may fail in any way
            raise ValueError(f"model factory '{architecture}' failed: {reason(error)}") from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"model factory '{architecture}' returned {type(module).__name__}, expected an nn.Module")
        try:
            return bare(module)
        except ValueError as error:
            raise ValueError(f"model factory '{architecture}': {error}") from error

    return build
