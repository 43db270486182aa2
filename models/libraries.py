"""Networks of timm and of Hugging Face's transformers: their code is installed, their weights are local files."""

import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from tta_server.models.origin import Origin
from tta_server.models.preprocess import Preprocess
from tta_server.models.reason import reason

_PROCESSOR = "preprocessor_config.json"
_WEIGHTS = "model.safetensors", "pytorch_model.bin"
_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # as Pillow numbers them
_CROP_SHARE = 224 / 256  # of the shorter side, where nobody says otherwise
_SQUASHED = 384
_PICTURE = 301, 260  # of a width that leaves an odd number to cut off
_EQUAL = 1e-3  # of a deviation


def timm_source(name: str) -> Origin:
    """Return a network of timm with random weights.

    Args:
        name: In timm: "resnet50", or "resnet50.tv_in1k", which is also which weights they are going to be. On those
            depend preprocessing, the number of classes and, of some networks, the size of images.

    Raises:
        ValueError: If timm is not installed, or has no such network or no such weights of it.
    """
    timm = _library("timm", "timm")
    network, _, tag = name.partition(".")
    if not timm.is_model(network):
        near = ", ".join(timm.list_models(f"*{network}*")[:5])
        raise ValueError(f"timm has no network '{network}'; {f'it has {near}' if near else 'see timm.list_models()'}")
    tagged = timm.models.get_arch_pretrained_cfgs(network)
    if tag and name not in tagged:
        known = ", ".join(each.partition(".")[2] for each in tagged)
        raise ValueError(f"timm has no weights '{tag}' of '{network}'; {f'it has {known}' if known else 'it has none'}")
    published = timm.get_pretrained_cfg(name, allow_unregistered=True)
    preprocess, whole = _timm_preprocess(timm, published)

    def build(classes: int | None) -> nn.Module:
        arguments: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        module: nn.Module = timm.create_model(name, pretrained=False, **arguments)
        return module

    others = [other for other, each in tagged.items() if _timm_preprocess(timm, each)[0] != preprocess]
    caution = ""
    if others and not tag:
        caution = (
            f"images are prepared as for '{network}.{published.tag}'; if the weights are, or were trained from, others "
            f"that timm names, serve 'timm/{network}.TAG': images are prepared otherwise for {', '.join(others)}"
        )
    if not whole:
        caution = f"images of '{name}' are not prepared as timm does it, with a border; set model.preprocess"
    return Origin(build, preprocess, caution=caution)


def _timm_preprocess(timm: Any, published: Any) -> tuple[Preprocess, bool]:  # noqa: ANN401
    """Return the preprocessing that timm has for published weights, None being any, and whether that is all of it."""
    told = timm.data.resolve_data_config(pretrained_cfg=published.to_dict() if published else {}, verbose=False)
    channels, height, width = told["input_size"]
    whole = math.floor(height / told["crop_pct"]), math.floor(width / told["crop_pct"])
    known = told["interpolation"] in _FILTERS.values()
    preprocess = Preprocess(
        (height, width),
        resize=whole if told["crop_mode"] == "squash" else max(*whole, height, width),
        interpolation=told["interpolation"] if known else "bicubic",
        channels=channels,
        mean=tuple(told["mean"]),
        std=tuple(told["std"]),
    )
    return preprocess, known and told["crop_mode"] in ("center", "squash") and told["crop_pct"] <= 1


def hf_source(folder: Path) -> Origin:
    """Return the classifier in a folder that `save_pretrained` of transformers has written; nothing is downloaded.

    Raises:
        ValueError: If transformers is not installed, or the folder holds no classifier of images.
    """
    transformers = _library("transformers", "hf")
    if not (folder / "config.json").is_file():
        raise ValueError(f"folder '{folder}' holds no config.json; give one that save_pretrained has written")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever is wrong with the file
        raise ValueError(f"'{folder / 'config.json'}' cannot be used: {reason(error, 200)}") from error
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)

    def build(classes: int | None) -> nn.Module:
        if classes is not None:
            config.num_labels = classes
        try:
            module: nn.Module = transformers.AutoModelForImageClassification.from_config(config)
        except Exception as error:
            raise ValueError(f"folder '{folder}' holds no classifier of images: {reason(error, 200)}") from error
        return module

    def ready() -> nn.Module:
        # Its own reader: on the disk, tensors have other names than in the network.
        try:
            classifier = transformers.AutoModelForImageClassification
            module, found = classifier.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        except Exception as error:
            raise ValueError(f"folder '{folder}' holds no classifier of images: {reason(error, 200)}") from error
        missing = sorted(found["missing_keys"])
        if missing:
            raise ValueError(
                f"weights of folder '{folder}' do not fit the network: {len(missing)} tensors are missing "
                f"('{missing[0]}' first); give the folder of a classifier"
            )
        served: nn.Module = module
        return served

    preprocess = _hf_preprocess(folder, config)
    return Origin(
        build,
        preprocess,
        weights,
        tuple(config.id2label[i] for i in sorted(config.id2label)),
        ready=ready if weights else None,
        caution=_hf_caution(transformers, folder, preprocess),
    )


def _hf_preprocess(folder: Path, config: Any) -> Preprocess:  # noqa: ANN401
    path = folder / _PROCESSOR
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    size, crop = _sides(told.get("size")), _sides(told.get("crop_size"))
    side = getattr(config, "image_size", None) or 224
    shape = (side, side) if isinstance(side, int) else tuple(side)
    resize: int | tuple[int, int] | None = None
    cropped = bool(told.get("do_center_crop") and crop)
    if "shortest_edge" in size:
        shortest, kind = (
            size["shortest_edge"],
            str(told.get("image_processor_type") or told.get("feature_extractor_type")),
        )
        shape, resize = (shortest, shortest), shortest
        if kind.startswith("Levit"):
            resize = int(shortest * 256 / 224)
        elif kind.startswith("PoolFormer") or ("crop_pct" in told and shortest < _SQUASHED):
            resize = int(shortest / (told.get("crop_pct") or _CROP_SHARE))
        elif "crop_pct" in told:  # ConvNeXt's own rule: from here on nothing is cut off
            resize = None
    elif size:
        shape = size["height"], size["width"]
        resize = shape if cropped else None
    if cropped:
        shape = crop["height"], crop["width"]
        if isinstance(resize, int):
            resize = max(resize, *shape)
        elif resize:
            resize = max(resize[0], shape[0]), max(resize[1], shape[1])
    mean, std = _hf_normalisation(told)
    return Preprocess(
        shape,
        resize=resize,
        interpolation=_FILTERS.get(told.get("resample", 2), "bicubic"),  # type: ignore[arg-type]
        odd="first",
        channels=getattr(config, "num_channels", 3),
        mean=mean,
        std=std,
    )


def _sides(size: int | dict[str, int] | None) -> dict[str, int]:
    return {"height": size, "width": size} if isinstance(size, int) else size or {}


def _hf_normalisation(told: dict[str, Any]) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return mean and deviation of images in [0, 1] for all that a processor does to levels, one after the other."""
    scale = 255 * told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 255.0
    offset = 1.0 if told.get("rescale_offset") else 0.0
    normal = bool(told.get("do_normalize", told)) and "image_mean" in told
    mean, std = (told["image_mean"], told["image_std"]) if normal else ([0.0], [1.0])
    again = std if told.get("include_top") else [1.0] * len(std)  # EfficientNet's own rule: it divides twice
    if not normal and scale == 1 and not offset:
        return None, None
    channels = 3 if len(mean) == 1 else 1
    return (
        tuple((offset + each) / scale for each in mean) * channels,
        tuple(each * other / scale for each, other in zip(std, again, strict=True)) * channels,
    )


def _hf_caution(transformers: Any, folder: Path, preprocess: Preprocess) -> str:  # noqa: ANN401
    """Say how preprocessing differs from what the folder's own processor makes of a picture; empty if it does not."""
    if not (folder / _PROCESSOR).is_file():
        return f"folder '{folder}' holds no {_PROCESSOR}; see that model.preprocess is what the network expects"
    picture = Image.effect_noise(_PICTURE, 60).convert("RGB" if preprocess.channels == 3 else "L")
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, use_fast=False)
        published = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0], dtype=np.float64)
    except Exception as error:  # a processor may need anything
        return f"the processor of folder '{folder}' cannot be tried ({reason(error, 200)}); check model.preprocess"
    mean, std = (
        np.reshape([default] * preprocess.channels if values is None else values, (-1, 1, 1))
        for values, default in ((preprocess.mean, 0.0), (preprocess.std, 1.0))
    )
    made = (preprocess(picture) / 255 - mean) / std
    if made.shape == published.shape and np.abs(made - published).max() < _EQUAL:
        return ""
    kind = type(processor).__name__
    return (
        f"images are not prepared as {kind} of folder '{folder}' does it; set model.preprocess, or serve a factory of "
        "your own that does what it lacks"
    )


def _library(name: str, extra: str) -> Any:  # noqa: ANN401
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"this model needs {name}; install tta-server[{extra}]") from error
