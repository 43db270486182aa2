"""Which of the tensors that a network returns are its logits."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Keys = tuple[str | int, ...]
"""Keys, names and indices from what a network returns to one of its tensors; none if it returns a tensor."""

Spotted = tuple[Keys, Tensor]
"""A tensor within what a network returns, and where it is."""

# What an entry is called, those first that say the most.
_SAID = (
    re.compile("logits?"),
    re.compile("outs?|outputs?|scores?|preds?|predictions?|probs?|probabilities"),
)
_SHUNNED = re.compile("(?:^|_)(?:aux|emb|feat|hidden|latent|pooled)")


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


class Wanted(NamedTuple):
    """What is known of the logits beforehand.

    Attributes:
        head: Path of the layer that makes them; empty if it is not.
        classes: How many there are of each image; None if it is not.
    """

    head: str = ""
    classes: int | None = None


def inside(outcome: Any, place: Keys) -> Any:  # noqa: ANN401
    """Return what lies at a place within what a network returned."""
    for key in place:
        outcome = getattr(outcome, key) if isinstance(key, str) and isinstance(outcome, tuple) else outcome[key]
    return outcome


def tensors_in(outcome: object, place: Keys = ()) -> Iterator[Spotted]:
    """Yield the tensors of numbers within what a network returns, and where each is."""
    if isinstance(outcome, Tensor):
        if outcome.is_floating_point():
            yield place, outcome
    elif len(place) < 3:
        items: Any = ()
        if isinstance(outcome, Mapping):
            items = outcome.items()
        elif isinstance(outcome, tuple | list):
            items = zip(getattr(outcome, "_fields", range(len(outcome))), outcome, strict=True)
        for key, value in items:
            yield from tensors_in(value, (*place, key))


def rows_of(tensor: Tensor) -> Tensor:
    """Return scores as (N, K), also those of one place for each class, (N, K, 1, 1)."""
    return tensor.flatten(1) if tensor.dim() == 4 and tensor.shape[2:] == (1, 1) else tensor


def find_logits(
    outcome: object, rows: int, heard: Sequence[Heard], wanted: Wanted, again: Callable[[], Any]
) -> tuple[Keys, Tensor]:
    """Return where the logits are, and they.

    Args:
        outcome: What the network returned.
        rows: Of how many images.
        heard: What its layers made that may be the head.
        wanted: What is known of them.
        again: Runs the network once more, with a gradient; called where it returned more than one such tensor.

    Raises:
        ValueError: If there are none, or it cannot be seen which they are.
    """
    tensors = list(tensors_in(outcome))
    fitting = [one for one in tensors if one[1].dim() == 2 and len(one[1]) == rows]
    fitting = fitting or [
        (place, rows_of(one)) for place, one in tensors if len(one) == rows and rows_of(one).dim() == 2
    ]
    if not fitting:
        shapes = ", ".join(str(tuple(tensor.shape)) for _, tensor in tensors[:4]) or f"a {type(outcome).__name__}"
        raise ValueError(
            f"it returns {shapes} for {rows} images, expected logits of shape ({rows}, classes), alone or in a dict or "
            "tuple; wrap the network so that it returns them"
        )
    left = fitting if len(fitting) == 1 else _chosen(fitting, heard, wanted, again)
    makers = [{each.path for each in heard if follows(tensor, each.scores)} for _, tensor in left]
    if len(left) == 1 or set.intersection(*makers):  # such as logits beside their softmax
        return left[0]
    shapes = ", ".join(f"'{dotted(place)}' {tuple(tensor.shape)}" for place, tensor in left)
    raise ValueError(
        f"it returns several tensors ({shapes}); wrap the network so that it returns the logits alone, or name the "
        "layer that makes them with --head"
    )


def follows(found: Tensor, scores: Tensor) -> bool:
    """Return whether a tensor is what a layer made, or the softmax of it."""
    if found.shape != scores.shape:
        return False
    return any(close(found, made) for made in (scores, scores.float().softmax(1), scores.float().log_softmax(1)))


def close(left: Tensor, right: Tensor) -> bool:
    """Return whether tensors are equal but for rounding."""
    return torch.allclose(left.float(), right.float(), rtol=1e-2 if left.dtype.itemsize < 4 else 1e-4, atol=1e-6)


def dotted(place: Keys) -> str:
    """Return a place in words."""
    return ".".join(map(str, place))


def _chosen(fitting: list[Spotted], heard: Sequence[Heard], wanted: Wanted, again: Callable[[], Any]) -> list[Spotted]:
    """Return those of several tensors that may be the logits, by what is said of them and then by what they are."""
    if named := _made_by(fitting, heard, wanted.head):
        return named
    left = [one for one in fitting if one[1].shape[1] == wanted.classes] or fitting
    if said := _called(left, _SAID[0]):
        return said
    left = [one for one in left if not any(_SHUNNED.search(key) for key in _names(one[0]))] or left
    if len(left) > 1:
        left = _last(left, heard, again)
    return _called(left, _SAID[1]) or left


def _made_by(fitting: list[Spotted], heard: Sequence[Heard], head: str) -> list[Spotted]:
    """Return what the named head makes or, if that goes through more, what is as wide and no other layer makes."""
    own = [each.scores for each in heard if each.path == head]
    others = [each.scores for each in heard if each.path != head]
    made = [one for one in fitting if any(follows(one[1], scores) for scores in own)]
    return made or [
        one
        for one in fitting
        if any(one[1].shape == scores.shape for scores in own) and not any(follows(one[1], each) for each in others)
    ]


def _last(fitting: list[Spotted], heard: Sequence[Heard], again: Callable[[], Any]) -> list[Spotted]:
    """Return the tensors without those from which others of them are made."""
    left = [one for one in fitting if not any(_given(one[1], each.features) for each in heard)]
    if len(left) == 1:
        return left
    makers = {place: {each.path for each in heard if follows(tensor, each.scores)} for place, tensor in fitting}
    with_gradient = dict(tensors_in(again()))
    found = [(place, with_gradient[place]) for place, _ in fitting if place in with_gradient]

    def leads(one: Spotted, other: Spotted) -> bool:
        apart = rows_of(one[1]).shape != rows_of(other[1]).shape or bool(makers[other[0]] - makers[one[0]])
        return apart and _reaches(one[1], other[1])

    early = {one[0] for one in found if any(leads(one, other) for other in found if other[0] != one[0])}
    return [one for one in left or fitting if one[0] not in early] or left or fitting


def _given(tensor: Tensor, features: Tensor) -> bool:
    """Return whether a layer was given a tensor: as it is, at another length, or without what is negative."""
    if tensor.shape != features.shape:
        return False
    alike = (nn.functional.cosine_similarity(one.float(), features.float()) for one in (tensor, tensor.relu()))
    return any(bool((each > 1 - 1e-5).all()) for each in alike)


def _reaches(early: Tensor, late: Tensor) -> bool:
    if not (early.requires_grad and late.requires_grad):
        return False
    return torch.autograd.grad(late.sum(), early, allow_unused=True, retain_graph=True)[0] is not None


def _called(found: list[Spotted], pattern: re.Pattern[str]) -> list[Spotted]:
    return [one for one in found if one[0] and pattern.fullmatch(str(one[0][-1]).lower())]


def _names(place: Keys) -> list[str]:
    return [key.lower() for key in place if isinstance(key, str)]
