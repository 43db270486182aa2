"""The reference bundle: what is computed once from labelled source data and ships with a model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tta_server.models.backbone import Backbone, Tensors
from tta_server.models.preprocess import Preprocess

SCHEMA = 3
PREPROCESS = "preprocess"
"""What a bundle says of the preprocessing that it was made with."""
_KEY = "tta_reference"


@dataclass(frozen=True)
class Reference:
    """Facts about the source data, as tensors and numbers.

    Attributes:
        digest: Digest of the backbone that they were computed with.
        tensors: Flat; the first part of a name up to "/" is the part of the bundle, such as `fisher/bn1.weight` or
            `memory/features`.
        about: Numbers that are no tensors: sizes, seeds, thresholds.
    """

    digest: str
    tensors: Tensors
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> frozenset[str]:
        """Names of the parts that the bundle has."""
        return frozenset(name.partition("/")[0] for name in self.tensors)

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one part, by the rest of their names.

        Raises:
            ValueError: If the bundle does not have it.
        """
        if name not in self.parts:
            raise ValueError(f"the reference bundle has no part '{name}'; make it with 'tta-server calibrate'")
        start = f"{name}/"
        return {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}

    def save(self, path: Path) -> None:
        """Write the bundle as one safetensors file; what is there stays whole until the new file is."""
        about = {"schema": SCHEMA, "digest": self.digest, "about": dict(self.about)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        unfinished = path.with_name(f"{path.name}.unfinished")
        unfinished.write_bytes(save(tensors, {_KEY: json.dumps(about, sort_keys=True)}))
        unfinished.replace(path)


def beside(weights: Path) -> Path:
    """Return where the bundle of a weights file is looked for: next to it."""
    return weights.with_name(f"{weights.stem}.reference.safetensors")


def load_reference(path: Path, backbone: Backbone, preprocess: Preprocess | None = None) -> Reference:
    """Read a bundle and put its tensors on the device of `backbone`.

    Args:
        path: The file.
        backbone: The network that it is of.
        preprocess: What turns images into its input; None is not compared, nor is a bundle that does not say.

    Raises:
        ValueError: If the file is missing, is no bundle, or was made with other weights or by another preprocessing.
    """
    if not path.is_file():
        raise ValueError(f"reference bundle '{path}' does not exist; make it with 'tta-server calibrate'")
    try:
        with safe_open(path, "pt", device=str(backbone.device)) as file:
            header = json.loads((file.metadata() or {})[_KEY])
            schema, digest, about = header["schema"], str(header["digest"]), dict(header["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"'{path}' is not a reference bundle, or a damaged one; make it again") from error
    if schema != SCHEMA:
        age = "an older" if isinstance(schema, int) and schema < SCHEMA else "another"
        raise ValueError(
            f"reference bundle '{path}' was made with {age} version: it has schema {schema}, expected {SCHEMA}; "
            "make it again with 'tta-server calibrate'"
        )
    if digest != backbone.spec.digest:
        raise ValueError(
            f"reference bundle '{path}' was made with weights {digest[:12]}, but model "
            f"'{backbone.spec.name}' has {backbone.spec.digest[:12]}; make it again with 'tta-server calibrate', or "
            "name another by model.reference"
        )
    made, given = about.get(PREPROCESS), preprocess.about() if preprocess else {}
    known = made if isinstance(made, dict) else given
    if other := [f"{name} {known[name]}" for name, value in given.items() if known.get(name, value) != value]:
        raise ValueError(
            f"reference bundle '{path}' was made with another preprocessing, {', '.join(other)}: go back to that, or "
            "make the bundle again with 'tta-server calibrate'"
        )
    return Reference(digest, tensors, about)
