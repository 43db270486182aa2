"""Where a network's features end, and where in what it returns its logits are."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Keys = tuple[str | int, ...]
"""Keys and indices from what a network returns to one of its tensors; none if it returns a tensor."""

_SAID = ("logits", "logit")


class Heard(NamedTuple):
    """What a layer that may be the head was given and made of it.

    Attributes:
        path: Of the layer.
        layer: The layer.
        features: What it was given, one row for each image.
        scores: What it made of each image, (N, K).
    """

    path: str
    layer: nn.Module
    features: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Reading:
    """How logits are read from what a network returns, and features from what its head is given.

    Attributes:
        place: Where the logits are.
        classes: How many, K.
        head: Path of the layer that is given the features; empty if the logits stand in for them.
        features: How many, D.
        softmax: Whether the network returns probabilities, whose logarithms are the logits.
        remarks: What a person should know of it, by subject.
    """

    place: Keys
    classes: int
    head: str
    features: int
    softmax: bool = False
    remarks: Mapping[str, str] = field(default_factory=dict)

    def logits(self, outcome: Any) -> Tensor:  # noqa: ANN401
        """Return the logits (N, K) within what the network returned."""
        for key in self.place:
            outcome = outcome[key]
        found: Tensor = outcome
        return found.clamp(min=torch.finfo(found.dtype).tiny).log() if self.softmax else found


def features_of(given: Tensor) -> Tensor:
    """Return what a head is given, (N, D): maps are averaged over their places."""
    return given.flatten(2).mean(2) if given.dim() > 2 else given


def tensors_in(outcome: object, place: Keys = ()) -> Iterator[tuple[Keys, Tensor]]:
    """Yield the tensors of numbers within what a network returns, and where each is."""
    if isinstance(outcome, Tensor):
        if outcome.is_floating_point():
            yield place, outcome
    elif len(place) < 3:
        items: Any = ()
        if isinstance(outcome, Mapping):
            items = outcome.items()
        elif isinstance(outcome, tuple | list):
            items = enumerate(outcome)
        for key, value in items:
            yield from tensors_in(value, (*place, key))


def find_reading(module: nn.Module, run: Callable[[], Any], rows: int, head: str) -> Reading:
    """Run a network once and find out how to read it.

    Args:
        module: The network.
        run: Runs it on so many images; called once.
        rows: How many.
        head: Path of the layer that makes the logits; guessed when empty.

    Raises:
        ValueError: If no logits are found, or the head that is named does not take one row for each image.
    """
    outcome, heard = _listen(module, run, rows, head)
    place, found = _find_logits(outcome, rows, heard)
    softmax = _check_scores(found, heard)
    chosen = _find_head(module, head, heard, found)
    classes = found.shape[1]
    remarks = {"logits": _where(place, softmax)}
    if chosen is None:
        remarks["head"] = "none found: the logits stand in for the features; name the layer with --head"
        return Reading(place, classes, "", classes, softmax, remarks)
    features = chosen.features.shape[1]
    remarks["head"] = f"{chosen.path}, {type(chosen.layer).__name__} of {features} features"
    if not _follows(found, chosen.scores):
        remarks["head"] += "; what it makes is not what the network returns"
    return Reading(place, classes, chosen.path, features, softmax, remarks)


def _listen(module: nn.Module, run: Callable[[], Any], rows: int, head: str) -> tuple[Any, list[Heard]]:
    heard: list[Heard] = []

    def hear(path: str, layer: nn.Module, args: tuple[Any, ...], made: object) -> None:
        given = args[0] if args else None
        if not isinstance(given, Tensor) or not isinstance(made, Tensor):
            return
        if isinstance(layer, nn.Linear) and given.dim() != 2:  # one that each place or token goes through
            return
        if {given.dim(), made.dim()} <= {2, 4} and len(given) == len(made) == rows and made.is_floating_point():
            heard.append(Heard(path, layer, features_of(given.detach()), features_of(made.detach())))

    wanted = {name: layer for name, layer in module.named_modules() if name and (name == head or _may_be_head(layer))}
    handles = [layer.register_forward_hook(partial(hear, name)) for name, layer in wanted.items()]
    try:
        return run(), heard
    finally:
        for handle in handles:
            handle.remove()


def _may_be_head(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Linear):
        return True
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.groups == 1
    # Something of its own, such as the cosines between features and one direction for each class.
    return any(parameter.dim() == 2 for parameter in layer.parameters(recurse=False))


def _find_logits(outcome: object, rows: int, heard: list[Heard]) -> tuple[Keys, Tensor]:
    tensors = list(tensors_in(outcome))
    fitting = [(place, tensor) for place, tensor in tensors if tensor.dim() == 2 and len(tensor) == rows]
    if not fitting:
        shapes = ", ".join(str(tuple(tensor.shape)) for _, tensor in tensors[:4]) or f"a {type(outcome).__name__}"
        raise ValueError(
            f"it returns {shapes} for {rows} images, expected logits of shape ({rows}, classes), alone or in a dict or "
            "tuple; wrap the network so that it returns them"
        )
    said = [one for one in fitting if one[0] and one[0][-1] in _SAID]
    made = [one for one in fitting if any(_follows(one[1], other.scores) for other in heard)]
    if len(fitting) == 1 or said or made:
        return (said or made or fitting)[0]
    shapes = ", ".join(f"'{_name(place)}' {tuple(tensor.shape)}" for place, tensor in fitting)
    raise ValueError(f"it returns several tensors ({shapes}); wrap the network so that it returns the logits alone")


def _follows(found: Tensor, scores: Tensor) -> bool:
    """Return whether a tensor is what a layer made, or the softmax of it."""
    if found.shape != scores.shape:
        return False
    return any(_close(found, made) for made in (scores, scores.float().softmax(1), scores.float().log_softmax(1)))


def _check_scores(found: Tensor, heard: list[Heard]) -> bool:
    """Return whether these are probabilities; ValueError if they are no scores of classes of which one is right."""
    if found.shape[1] == 1:
        raise ValueError(
            "it makes one number for each image, expected one for each class; for two classes return "
            "torch.cat([torch.zeros_like(logit), logit], 1)"
        )
    scores = [one.scores for one in heard if one.scores.shape == found.shape]
    if any(_close(found, made.float().sigmoid()) for made in scores):
        raise ValueError(
            "it ends in a sigmoid, which says of each class by itself whether it is there; this server names one "
            "class of several: return the logits of such classes"
        )
    exact = found.double()
    near = 1e-2 if found.dtype.itemsize < 4 else 1e-4
    return bool((exact >= 0).all()) and bool(((exact.sum(1) - 1).abs() < near).all())


def _find_head(module: nn.Module, head: str, heard: list[Heard], found: Tensor) -> Heard | None:
    if head:
        if head not in dict(module.named_modules()):
            likely = ", ".join(dict.fromkeys(one.path for one in heard)) or "none that could be the head"
            raise ValueError(f"head '{head}' is no layer of it; it has {likely}")
        named = [one for one in heard if one.path == head]
        if not named:
            raise ValueError(f"head '{head}' is not given one row of features for each image; name another layer")
        return named[-1]
    same = [one for one in heard if _follows(found, one.scores)]
    alike = [one for one in heard if one.scores.shape == found.shape]
    return (same or alike or [None])[-1]  # type: ignore[list-item]


def _where(place: Keys, softmax: bool) -> str:
    where = f"entry '{_name(place)}' of what it returns" if place else "what it returns"
    return f"{where}; they are probabilities: their logarithms are taken" if softmax else where


def _name(place: Keys) -> str:
    return ".".join(map(str, place))


def _close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left.float(), right.float(), rtol=1e-2 if left.dtype.itemsize < 4 else 1e-4, atol=1e-6)
