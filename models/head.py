"""Where a network's features end, and where in what it returns its logits are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tta_server.models.logits import (
    Heard,
    Keys,
    Wanted,
    close,
    dotted,
    find_logits,
    follows,
    inside,
    rows_of,
    tensors_in,
)

_SIGMOID = (
    "it ends in a sigmoid, which says of each class by itself whether it is there; this server names one class of "
    "several: return the logits of such classes"
)
_FAR = 1e4  # beyond what a layer makes
_END = 1e-3  # so near to its ends a sigmoid of large numbers is


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
        found = rows_of(inside(outcome, self.place))
        return found.clamp(min=torch.finfo(found.dtype).tiny).log() if self.softmax else found


class LastLayer(nn.Module):
    """In a program that no layers are seen of: where features go in and logits come out."""

    def forward(self, _features: Tensor, logits: Tensor) -> Tensor:
        """Return the logits."""
        return logits


def features_of(given: Tensor) -> Tensor:
    """Return what a head is given, (N, D): maps are averaged over their places."""
    return given.flatten(2).mean(2) if given.dim() > 2 else given


def find_reading(module: nn.Module, run: Callable[[Tensor], Any], images: Tensor, wanted: Wanted) -> Reading:
    """Run a network and find out how to read it.

    Args:
        module: The network.
        run: Runs it on images, as a stream's are; leaves it as it was.
        images: What to try it with, levels in [0, 1] (N, C, H, W).
        wanted: What is known of its logits; the layer that makes them is guessed when it has no name.

    Raises:
        ValueError: If no logits are found, or the head that is named does not take one row for each image.
    """

    def again() -> Any:  # noqa: ANN401
        with torch.enable_grad():
            return run(images.detach().clone().requires_grad_())

    rows = len(images)
    outcome, heard = _listen(module, partial(run, images), rows, wanted.head)
    place, found = find_logits(outcome, rows, heard, wanted, again)
    softmax = _check_scores(found, heard)
    if not softmax and _stays_within(run, images, heard, place, found):
        raise ValueError(_SIGMOID)
    rest = [rows_of(tensor) for other, tensor in tensors_in(outcome) if other != place]
    chosen = _find_head(module, wanted.head, heard, found, rest)
    classes = found.shape[1]
    remarks = {"logits": _where(place, softmax)}
    if chosen is None:
        remarks["head"] = "none found: the logits stand in for the features; name the layer with --head"
        return Reading(place, classes, "", classes, softmax, remarks)
    features = chosen.features.shape[1]
    remarks["head"] = f"{chosen.path}, {type(chosen.layer).__name__} of {features} features"
    if not follows(found, chosen.scores):
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


def _check_scores(found: Tensor, heard: list[Heard]) -> bool:
    """Return whether these are probabilities; ValueError if they are no scores of classes of which one is right."""
    if found.shape[1] == 1:
        raise ValueError(
            "it makes one number for each image, expected one for each class; for two classes return "
            "torch.cat([torch.zeros_like(logit), logit], 1)"
        )
    scores = [one.scores for one in heard if one.scores.shape == found.shape]
    if any(close(found, made.float().sigmoid()) for made in scores):
        raise ValueError(_SIGMOID)
    exact = found.double()
    near = 1e-2 if found.dtype.itemsize < 4 else 1e-4
    return bool((exact >= 0).all()) and bool(((exact.sum(1) - 1).abs() < near).all())


def _stays_within(
    run: Callable[[Tensor], Any],
    images: Tensor,
    heard: Sequence[Heard],
    place: Keys,
    found: Tensor,
) -> bool:
    """Return whether scores stay in [0, 1] whatever the images, and whatever a layer makes of them that is as wide."""
    if not (found.isfinite().all() and _within(found)):
        return False
    alike = {each.layer for each in heard if each.scores.shape == found.shape}

    def add(_layer: nn.Module, _args: object, made: Tensor) -> Tensor:
        return made + _FAR

    handles = [layer.register_forward_hook(add) for layer in alike]
    try:
        tried = [rows_of(inside(run(images), place))]
    finally:
        for handle in handles:
            handle.remove()
    bright = 60 * images - 30  # by far: an image's levels are in [0, 1]
    tried += [rows_of(inside(run(x), place)) for x in (bright, -bright)]
    # Where it goes to its ends, and is not bounded by itself, as cosines of features are that are never below 0.
    return all(map(_within, tried)) and any(_at_its_ends(scores, torch.cat(tried)) for scores in tried)


def _at_its_ends(scores: Tensor, all_scores: Tensor) -> bool:
    """Return whether most scores are the lowest or the highest of all."""
    known, every = (each[each.isfinite()] for each in (scores, all_scores))
    return bool(((known - every.min() < _END) | (every.max() - known < _END)).float().mean() > 0.5)


def _within(scores: Tensor) -> bool:
    known = scores[scores.isfinite()]
    return bool(((known >= 0) & (known <= 1)).all())


def _find_head(module: nn.Module, head: str, heard: list[Heard], found: Tensor, rest: Sequence[Tensor]) -> Heard | None:
    if head:
        if head not in dict(module.named_modules()):
            likely = ", ".join(dict.fromkeys(one.path for one in heard)) or "none that could be the head"
            raise ValueError(f"head '{head}' is no layer of it; it has {likely}")
        named = [one for one in heard if one.path == head]
        if not named:
            raise ValueError(f"head '{head}' is not given one row of features for each image; name another layer")
        return named[-1]
    same = [one for one in heard if follows(found, one.scores)]
    alike = [one for one in heard if one.scores.shape == found.shape]
    own = [one for one in alike if not any(follows(tensor, one.scores) for tensor in rest)]
    return (same or own or alike or [None])[-1]  # type: ignore[list-item]


def _where(place: Keys, softmax: bool) -> str:
    where = f"entry '{dotted(place)}' of what it returns" if place else "what it returns"
    return f"{where}; they are probabilities: their logarithms are taken" if softmax else where
