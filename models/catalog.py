"""Load a model by the name of its network, ready to serve."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tta_server.models.answering import Chosen
from tta_server.models.arrange import MemoryFormat, NumberType, convert
from tta_server.models.backbone import distance, random_images
from tta_server.models.compare import compare
from tta_server.models.freeze import tensors
from tta_server.models.logits import Wanted
from tta_server.models.onnx_file import SUFFIX
from tta_server.models.origin import Origin
from tta_server.models.preprocess import Preprocess
from tta_server.models.reason import reason
from tta_server.models.reference import Reference, beside, load_reference
from tta_server.models.sources import find, is_factory, own_file
from tta_server.models.torch_backbone import TorchBackbone
from tta_server.models.torch_file import SUFFIXES
from tta_server.models.weights import check_file, load_weights, read_weights

log = logging.getLogger(__name__)

_WORTH = 0.95  # of the time: what is less may be chance
_APART = 0.01  # of the largest logit or feature: bfloat16 and TF32 round that much by the order of a sum


@dataclass(frozen=True)
class Model:
    """A network that is ready to serve.

    Attributes:
        backbone: The frozen network.
        preprocess: From decoded images to its input.
        labels: Name of each class, K of them.
        reference: What is known of the source data; None if nothing is.
        answers: What answers for it, if not the backbone itself, which learns in any case.
        memory: In which order images and weights lie, and why.
    """

    backbone: TorchBackbone
    preprocess: Preprocess
    labels: tuple[str, ...]
    reference: Reference | None = None
    answers: Chosen | None = None
    memory: str = "contiguous"


@dataclass(frozen=True)
class Custom:
    """What a user's model has in place of what the architecture has by itself.

    Attributes:
        labels: Names of the classes, or a text file with one a line; the architecture's own, or indices, when None.
        classes: Number of classes; the architecture's own when None.
        preprocess: From image to input; the architecture's own when None.
        head: Path of the layer that makes the logits; when empty the one that does so, as far as can be seen.
        dtype: Type of its numbers, but for normalisation layers; as it comes when None.
        memory_format: In which order images and weights lie; "auto" takes the one that answers faster here.
        arguments: Keyword arguments of a factory.
    """

    labels: Sequence[str] | str | Path | None = None
    classes: int | None = None
    preprocess: Preprocess | None = None
    head: str = ""
    dtype: NumberType | None = None
    memory_format: MemoryFormat | Literal["auto"] = "contiguous"
    arguments: Mapping[str, Any] = field(default_factory=dict)


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
            "wrn-28-10" (CIFAR, in RobustBench's layout), "timm/NAME",
            "hf/FOLDER" (as `save_pretrained` writes it, with the weights in it), "FILE.onnx", "FILE.pt" of TorchScript
            or "FILE.pt2" of torch.export (these three answer only), or
            "package.module:factory", a function that takes `custom.arguments` (and `num_classes` if `custom.classes` is
            given) and returns an `nn.Module`; the folder in which the process was started is searched too.
        weights: Local file with the state dict. A factory may do without: its module is then served as it comes.
        sha256: Expected digest of that file; empty is not checked.
        custom: What is not as the architecture has it.
        device: Where to run.
        reference: The reference bundle that 'tta-server calibrate' wrote. If None, the architecture's own for its own
            weights, else `<stem of the weights>.reference.safetensors` next to the weights if there is one.
        calibrated: Whether to look for a bundle at all; not so while one is made.

    Raises:
        ValueError: If the name is unknown, the factory fails, the weights do not fit, the labels do not match the
            classes, or the bundle is damaged or was made with other weights or by another preprocessing.
    """
    file = own_file(architecture)
    path = Path(weights) if weights else file
    if sha256 and path and path == file:
        check_file(path, sha256)  # first: reading such a file may run what is in it
    source = find(architecture, path, custom.arguments)
    if sha256 and source.beside:
        raise ValueError(
            f"model.sha256 is of '{path}' alone, whose weights lie in {', '.join(map(repr, source.beside))} too; save "
            "the model as one file, by torch.onnx.export(..., external_data=False) or onnx.save"
        )
    for said in (source.form, "" if custom.preprocess else source.caution):
        if said:
            log.warning("model '%s': %s", architecture, said)
    names, classes = _labels(custom.labels), custom.classes
    path = path or source.weights
    if source.ready and path and path == source.weights:
        if path != file:
            check_file(path, sha256)
        module = source.ready()
    else:
        own = is_factory(architecture) or architecture == "glyphs"
        module = source.build(classes if own else classes or len(names) or None)
        if path is not None:
            load_weights(module, read_weights(path, sha256), str(path))
        elif not is_factory(architecture):
            raise ValueError(f"model '{architecture}' needs a local weights file; nothing is ever downloaded")
    preprocess = custom.preprocess or source.preprocess
    if custom.dtype:
        convert(module, getattr(torch, custom.dtype))
    name = re.split("[:/]", architecture.rstrip("/"))[-1]
    name = name.removesuffix(next((suffix for suffix in (SUFFIX, *SUFFIXES) if name.endswith(suffix)), ""))

    def freeze() -> TorchBackbone:
        return TorchBackbone(
            module,
            preprocess.input_shape,
            name=name,
            head=Wanted(custom.head or source.head, classes or len(names) or len(source.labels) or None),
            mean=preprocess.mean,
            std=preprocess.std,
            device=device,
        )

    try:
        backbone, memory = _arranged(module, freeze, custom.memory_format)
    except ValueError:
        raise
    except Exception as error:  # a network may be anything
        raise ValueError(f"model '{architecture}' cannot be served: {reason(error)}") from error
    expected = backbone.spec.classes
    if classes not in (None, expected):
        raise ValueError(f"model '{architecture}' has {expected} classes, not the {classes} asked for")
    names = names or (source.labels if len(source.labels) == expected else tuple(map(str, range(expected))))
    if len(names) != expected:
        raise ValueError(f"model '{architecture}' has {expected} classes, got {len(names)} labels")
    bundle = _bundle(source, path, reference) if calibrated else None
    found = load_reference(bundle, backbone, preprocess) if bundle else None
    return Model(backbone, preprocess, names, found, memory=memory)


def _arranged(
    module: nn.Module, freeze: Callable[[], TorchBackbone], asked: MemoryFormat | Literal["auto"]
) -> tuple[TorchBackbone, str]:
    """Return the network in the memory format that is asked for, and what a person should know of it."""
    if any(tensor.ndim == 4 and not tensor.is_contiguous() for tensor in tensors(module).values()):
        nn.Module.to(module, memory_format=torch.contiguous_format)  # whoever made it had another in mind
    plain = freeze()
    if asked == "contiguous":
        return plain, plain.spec.memory_format
    nn.Module.to(module, memory_format=torch.channels_last)  # a network may have a `to` of its own
    if asked == "auto":
        return _faster(plain, freeze)
    other = freeze()
    if other.spec.memory_format != asked:
        raise ValueError(
            "model.memory_format: this model holds no weights that could lie as channels_last; leave it out"
        )
    return other, asked


def _faster(plain: TorchBackbone, freeze: Callable[[], TorchBackbone]) -> tuple[TorchBackbone, str]:
    """Return a network, or the same in channels_last where that is clearly faster and says the same, and why."""
    images = random_images(plain, 2)
    expected = plain.forward(images)
    try:
        other = freeze()
        if other.spec.memory_format == plain.spec.memory_format:
            return plain, plain.spec.memory_format
        apart = distance(other.forward(images), expected)
        if not apart <= _APART:
            return (
                plain,
                f"contiguous: in channels_last it answers otherwise, {apart:.1e} of its largest logit or feature",
            )
        share = compare(other, plain)
    except Exception as error:  # a network that takes a view of its maps, for one
        return plain, f"contiguous: it does not run in channels_last: {reason(error)}"
    if share < _WORTH:
        return other, f"channels_last, in which an answer takes {share:.2f} of its time here"
    return plain, f"contiguous: in channels_last an answer takes {share:.2f} of its time here"


def _bundle(source: Origin, weights: Path | None, reference: str | Path | None) -> Path | None:
    if reference is not None:
        return Path(reference)
    if weights == source.weights and source.reference:
        return source.reference
    return beside(weights) if weights and beside(weights).is_file() else None


def _labels(labels: Sequence[str] | str | Path | None) -> tuple[str, ...]:
    if isinstance(labels, (str, Path)):
        path = Path(labels)
        if not path.is_file():
            raise ValueError(f"labels file '{path}' does not exist; write one class name a line")
        try:
            # Some editors put a byte order mark in front, which would become part of the first name.
            lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines() or [""]
        except UnicodeDecodeError as error:
            raise ValueError(f"labels file '{path}' is not in UTF-8 ({error.reason}); save it as UTF-8") from error
        names = tuple(line.strip() for line in lines)
        if not all(names):
            raise ValueError(
                f"labels file '{path}' has no name in line {names.index('') + 1}, so that it is unknown which classes "
                "the next ones are; write one class name a line"
            )
        return names
    return tuple(labels or ())
