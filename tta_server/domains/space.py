"""The space in which styles are compared: whitened by how the source's images vary.

Noise hides in directions in which source images hardly vary, so the whole covariance counts and not only variances.
Streams may be sorted, so directions in which classes differ count less: there, images of one class lie far out together
without being spoilt.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tta_server.models import Backbone, Output, Reference

PART = "style"
"""The part of the reference bundle that holds a space."""

KIN_IMAGES = 16
"""So many images of one class lie together; the mean of more is no nearer to the mean of all classes."""

LEAST_KIN = 4
"""The mean of fewer images says more of these than of their class."""

_SHRINKAGE = 0.1  # of the covariance to its diagonal: there are hardly more images than dimensions
_LEAST_VARIANCE = 0.01  # of the median of all: a direction that no source image uses must not decide alone


@dataclass(frozen=True, eq=False)
class StyleSpace:
    """Where styles are compared; distances are squared, for each dimension, and 1 for a usual source image.

    Attributes:
        layers: Normalisation layers that styles are taken of.
        mean: Of the source's styles (D,).
        whitener: (D, D).
        images: How many source images these are known from.
        limit: Distance, in units of what chance explains, from which images are not the source's any more.
    """

    layers: tuple[str, ...]
    mean: Tensor
    whitener: Tensor
    images: int
    limit: float

    @classmethod
    def of(cls, reference: Reference) -> "StyleSpace":
        """Return the space that a bundle holds.

        Raises:
            ValueError: If it holds none.
        """
        part, about = reference.part(PART), reference.about[PART]
        mean, whitener = (part[name].double() for name in ("mean", "whitener"))
        return cls(tuple(about["layers"]), mean, whitener, about["images"], about["limit"])

    def styles(self, backbone: Backbone, x: Tensor, answer: bool = True) -> tuple[Tensor, Output | None]:
        """Return the whitened styles of images (N, D), float64 on the CPU, and the answer; see `Backbone.styles`."""
        raw, output = backbone.styles(x, self.layers, answer)
        return self.whiten(raw).cpu(), output

    def whiten(self, styles: Tensor) -> Tensor:
        """Return styles (N, D) in this space, float64."""
        return (styles.double() - self.mean) @ self.whitener


def styled_layers(reference: Reference | None) -> tuple[str, ...]:
    """Return the normalisation layers that a bundle's styles are taken of; none if it has no styles."""
    return StyleSpace.of(reference).layers if reference and PART in reference.parts else ()


def fit(layers: tuple[str, ...], styles: Tensor, held_out: Tensor, classes: Tensor, limit: float = 1.0) -> StyleSpace:
    """Return the space of source images.

    Whitened by how images vary, and as much by how the means of windows of one class vary.

    Args:
        layers: What the styles were taken of.
        styles: Of the images that the covariance is fitted on (N, D), N >= 2.
        held_out: Of others (M, D), M >= 1: the scale of distances is theirs, because those of fitted images are too
            small.
        classes: Of the first, as the network predicts them (N,).
        limit: See `StyleSpace`.

    Raises:
        ValueError: If there are too few images, or all look alike.
    """
    if len(styles) < 2 or not len(held_out):
        raise ValueError(f"a style space needs at least 3 images, got {len(styles) + len(held_out)}")
    values = styles.double()
    mean = values.mean(0)
    means = torch.stack([window.mean(0) - mean for window in kin(values, classes)])
    covariance = torch.cov(values.T) + KIN_IMAGES * means.T @ means / len(means)
    own = covariance.diagonal()
    least = _LEAST_VARIANCE * own.median().clamp(min=torch.finfo(torch.float32).tiny)
    shrunk = (1 - _SHRINKAGE) * covariance + torch.diag(_SHRINKAGE * own + (least - own).clamp(min=0))
    variances, axes = torch.linalg.eigh(shrunk)
    whitener = (axes * variances.clamp(min=float(least) * _SHRINKAGE).rsqrt()) @ axes.T
    usual = ((held_out.double() - mean) @ whitener).square().mean()
    if not usual:
        raise ValueError(f"the styles of these {len(styles) + len(held_out)} images do not vary")
    return StyleSpace(layers, mean, whitener / usual.sqrt(), len(styles), limit)


def kin(styles: Tensor, classes: Tensor) -> list[Tensor]:
    """Return the windows that a stream sorted by class shows.

    Args:
        styles: (N, D), N >= 1.
        classes: (N,).

    Returns:
        Styles of `KIN_IMAGES` of one class or a few more (n, D), of fewer where there are only so many; of classes of
        fewer than `LEAST_KIN`, as many together, one class after the other. All in one if that leaves nothing.
    """
    kinds, own, counts = torch.unique(classes, return_inverse=True, return_counts=True)
    many = counts >= LEAST_KIN
    found: list[Tensor] = []
    for kind, count in zip(kinds[many], counts[many], strict=True):
        found += styles[classes == kind].chunk(max(1, int(count) // KIN_IMAGES))
    rest = ~many[own]
    mixed = torch.split(styles[rest][classes[rest].argsort(stable=True)], KIN_IMAGES)
    return [*found, *(window for window in mixed if len(window) == KIN_IMAGES)] or [styles]
