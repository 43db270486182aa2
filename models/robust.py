"""A backbone whose batch statistics a few images cannot rule.

Source: Schneider et al., NeurIPS 2020, arXiv:2006.16971, for the blend with the source's statistics; Park et al.,
CVPR 2024, arXiv:2403.19326 (MedBN), for medians in place of means.
Differs: the source's share falls to nothing at a number of images, so that large batches are as the methods' papers
have them.
"""

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor

from tta_server.models.backbone import EMPTY, Backbone, Output, Statistics, Tensors


def robust(backbone: Backbone, full_rows: int, median: bool = False) -> Backbone:
    """Return `backbone` with safer batch statistics; adapters need not know.

    Args:
        backbone: The network; without BatchNorm nothing changes.
        full_rows: From so many images on, >= 1, a batch's own statistics count alone; those of n fewer count
            n / full_rows, the stored ones the rest. 1 never blends.
        median: Take medians over images in place of means: robust as long as most images are what they should be.

    Raises:
        ValueError: If `full_rows` is not positive.
    """
    if full_rows < 1:
        raise ValueError(f"full_rows must be at least 1, got {full_rows}")
    if "batchnorm" not in backbone.spec.capabilities or (full_rows == 1 and not median):
        return backbone
    return cast(Backbone, _Robust(backbone, full_rows, median))


class _Robust:
    """All but `forward` is the backbone's own."""

    def __init__(self, backbone: Any, full_rows: int, median: bool) -> None:  # noqa: ANN401
        self._backbone = backbone
        self._full_rows = full_rows
        self._median = median

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._backbone, name)

    def forward(self, x: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        """Run the network on `x` (N, C, H, W); see `Backbone.forward`."""
        output: Output = self._backbone.forward(x, overrides, self._safer(statistics, x.shape[0]))
        return output

    def stacks(self, overrides: Iterable[str]) -> bool:
        """Return whether `forward_stacked` takes overrides of these names."""
        return bool(getattr(self._backbone, "stacks", lambda _: False)(overrides))

    def forward_stacked(self, xs: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        """Run the network on images (S, N, C, H, W) of S streams, each override with S in front of its shape."""
        output: Output = self._backbone.forward_stacked(xs, overrides, self._safer(statistics, xs.shape[1]))
        return output

    def _safer(self, statistics: Statistics, rows: int) -> Statistics:
        if statistics != "batch":
            return statistics
        if rows < self._full_rows:
            return rows / self._full_rows
        return "median" if self._median else "batch"
