"""Networks of timm and of Hugging Face's transformers: their code is installed, their weights are local files."""

import importlib
import json
import math
from pathlib import Path
from typing import Any

from torch import nn

from tta_server.models.origin import Origin
from tta_server.models.preprocess import Preprocess
from tta_server.models.reference import beside

_WEIGHTS = "model.safetensors", "pytorch_model.bin"
_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # as Pillow numbers them
_CROP_SHARE = 224 / 256  # of the shorter side, where nobody says otherwise


def timm_source(name: str) -> Origin:
    """Return a network of timm by its name there, such as "mobilenetv3_small_050", with random weights.

    Raises:
        ValueError: If timm is not installed or has no such network.
    """
    timm = _library("timm", "timm")
    name = name.partition(".")[0]  # behind the dot timm names the weights
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name}*")[:5])
        raise ValueError(f"timm has no network '{name}'; {f'it has {near}' if near else 'see timm.list_models()'}")
    published = timm.get_pretrained_cfg(name, allow_unregistered=True)
    told = timm.data.resolve_data_config(pretrained_cfg=published.to_dict() if published else {}, verbose=False)
    channels, height, width = told["input_size"]
    preprocess = Preprocess(
        (height, width),
        resize=None if told["crop_mode"] == "squash" else math.floor(max(height, width) / told["crop_pct"]),
        interpolation=told["interpolation"] if told["interpolation"] in _FILTERS.values() else "bicubic",
        channels=channels,
        mean=tuple(told["mean"]),
        std=tuple(told["std"]),
    )

    def build(classes: int | None) -> nn.Module:
        arguments: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        module: nn.Module = timm.create_model(name, pretrained=False, **arguments)
        return module

    return Origin(build, preprocess)


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
        raise ValueError(f"'{folder / 'config.json'}' cannot be used: {_reason(error)}") from error
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    bundle = beside(weights) if weights else None

    def build(classes: int | None) -> nn.Module:
        if classes is not None:
            config.num_labels = classes
        try:
            module: nn.Module = transformers.AutoModelForImageClassification.from_config(config)
        except Exception as error:
            raise ValueError(f"folder '{folder}' holds no classifier of images: {_reason(error)}") from error
        return module

    def ready() -> nn.Module:
        # Its own reader: on the disk, tensors have other names than in the network.
        try:
            classifier = transformers.AutoModelForImageClassification
            module, found = classifier.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        except Exception as error:
            raise ValueError(f"folder '{folder}' holds no classifier of images: {_reason(error)}") from error
        missing = sorted(found["missing_keys"])
        if missing:
            raise ValueError(
                f"weights of folder '{folder}' do not fit the network: {len(missing)} tensors are missing "
                f"('{missing[0]}' first); give the folder of a classifier"
            )
        served: nn.Module = module
        return served

    return Origin(
        build,
        _hf_preprocess(folder, config),
        weights,
        tuple(config.id2label[i] for i in sorted(config.id2label)),
        bundle if bundle and bundle.is_file() else None,
        ready if weights else None,
    )


def _hf_preprocess(folder: Path, config: Any) -> Preprocess:  # noqa: ANN401
    path = folder / "preprocessor_config.json"
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    size, channels = told.get("size", {}), getattr(config, "num_channels", 3)
    size = {"height": size, "width": size} if isinstance(size, int) else size
    shortest, crop = size.get("shortest_edge"), told.get("crop_size") or {}
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    normal = bool(told.get("do_normalize", told))
    side = getattr(config, "image_size", None) or 224
    shape, resize = ((side, side) if isinstance(side, int) else tuple(side)), None
    if shortest:
        # ConvNeXt's own rule: below 384 the middle is cut out of a larger image.
        share = told.get("crop_pct") or _CROP_SHARE if "crop_pct" in told and shortest < 384 else 1.0
        shape, resize = (shortest, shortest), int(shortest / share)
        if told.get("do_center_crop") and crop:
            shape, resize = (crop["height"], crop["width"]), max(shortest, crop["height"], crop["width"])
        elif "crop_pct" in told and shortest >= 384:
            resize = None
    elif size:
        shape = size["height"], size["width"]
    return Preprocess(
        shape,
        resize=resize,
        interpolation=_FILTERS.get(told.get("resample", 2), "bicubic"),  # type: ignore[arg-type]
        channels=channels,
        mean=tuple(told["image_mean"]) if normal and "image_mean" in told else None,
        std=tuple(told["image_std"]) if normal and "image_std" in told else None,
    )


def _library(name: str, extra: str) -> Any:  # noqa: ANN401
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"this model needs {name}; install tta-server[{extra}]") from error


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
