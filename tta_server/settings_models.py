"""The part of the configuration that is about which networks are served."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from tta_server.settings_door import Section

_SHOWN = 3  # labels in a message; there may be thousands


def _model_name(name: str) -> str:
    if name == "stats" or not re.fullmatch(r"(?!\.+$)[A-Za-z0-9._:@-]{1,64}", name):
        raise ValueError(
            f"model name {name[:80]!r} must be 1 to 64 letters, digits, '.', '_', '-', ':' or '@', not dots alone, nor "
            "'stats', which is a path"
        )
    return name


ModelName = Annotated[str, AfterValidator(_model_name)]


class ModelSettings(Section):
    """Which network is served."""

    architecture: str = Field(
        "glyphs",
        description="'glyphs', a torchvision classifier, 'timm/NAME', 'hf/FOLDER', 'FILE.onnx', 'FILE.pt', "
        "'FILE.pt2', or 'package.module:factory'.",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of a 'package.module:factory', such as {depth: 18}."
    )
    name: str = Field("", description="Name in URLs and metrics; the architecture's when empty.")
    weights: Path | None = Field(None, description="Local safetensors or torch file with the state dict.")
    sha256: str = Field("", description="Expected digest of the weights file; empty is not checked.")
    labels: Path | list[str] | None = Field(None, description="Class names: a list, or a text file with one a line.")
    classes: int | None = Field(None, ge=2, description="Number of classes; the architecture's when empty.")
    head: str = Field("", description="Path of the layer that makes the logits; when empty the one that is seen to.")
    runtime: Literal["torch", "onnx", "auto"] = Field(
        "auto",
        description="What answers: 'torch', 'onnx' (ONNX Runtime), or 'auto': ONNX Runtime on a CPU, where it is "
        "installed and the bundle has graphs for it. What learns is torch. With 'onnx' and without graphs the server "
        "makes some at its start, which takes seconds and the extra 'onnx' or 'onnx-gpu'.",
    )
    device: str = Field("auto", description="'cpu', 'cuda', 'cuda:1', or 'auto': the first GPU if there is one.")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="Type of the weights, but for normalisation layers, which stay in float32; as they come when "
        "empty. A bundle is for one type.",
    )
    memory_format: Literal["contiguous", "channels_last", "auto"] = Field(
        "contiguous",
        description="In which order images and weights lie; 'auto' is the one that answers faster on this machine, "
        "which is tried at the start and may be the other after a restart.",
    )
    preprocess: dict[str, Any] | None = Field(None, description="Fields of Preprocess; the architecture's when empty.")
    reference: Path | None = Field(
        None, description="Bundle that 'calibrate' wrote; the one next to the weights when empty."
    )

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        return _model_name(name) if name else name

    @field_validator("labels", mode="before")
    @classmethod
    def _are_names(cls, labels: Any) -> Any:  # noqa: ANN401
        if labels is None or isinstance(labels, str | Path):
            return labels
        if not isinstance(labels, list | tuple):
            raise ValueError(f"expected a list of names, or a text file with one a line, got {labels!r}")
        if odd := [repr(label) for label in labels if not isinstance(label, str)]:
            some = ", ".join(odd[:_SHOWN]) + (", ..." if len(odd) > _SHOWN else "")
            raise ValueError(f"these are no text: {some}; put every name in quotes, such as 'yes', 'no' or '7'")
        return labels


class RepositorySettings(Section):
    """Other models beside `model`, which answers what names none."""

    models: dict[ModelName, ModelSettings] = Field(
        default_factory=dict,
        description="By name, each with the settings of `model`; loaded at the start, and unloaded and loaded while "
        "the server runs.",
    )

    @model_validator(mode="after")
    def _have_one_name(self) -> "RepositorySettings":
        if twice := next((name for name, each in self.models.items() if each.name not in ("", name)), ""):
            raise ValueError(f"model '{twice}' is named by its key; leave its 'name' out")
        return self
