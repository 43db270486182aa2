"""A backbone whose batch statistics a few images cannot rule, and that holds on to the source's as far as is good.

Source: Schneider et al., NeurIPS 2020, arXiv:2006.16971, for the blend with the source's statistics; You et al. 2021,
arXiv:2110.04065, for a share of them that stays; Park et al., CVPR 2024, arXiv:2403.19326 (MedBN), for medians in place
of means.
Differs: what few images count less falls to nothing at a number of images; the share that stays is measured for each
network by `tta-server calibrate`, because it differs: some networks gain by their input's statistics alone, others by
half of them, others by hardly any.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor

from tta_server.models.backbone import EMPTY, Backbone, Output, Statistics, Tensors
from tta_server.models.pooled import pool
from tta_server.models.reference import Reference

PART = "statistics"
"""The part of the reference bundle that holds the share of the source's statistics that stays."""


def measured_share(reference: Reference | None) -> float:
    """Return the share of the source's statistics that a bundle says should stay; 0 without one."""
    return float(reference.part(PART)["source_share"]) if reference and PART in reference.parts else 0.0


def robust(backbone: Backbone, full_rows: int, median: bool = False, source_share: float = 0.0) -> Backbone:
    """Return `backbone` with safer batch statistics; adapters need not know.

    Args:
        backbone: The network; without BatchNorm nothing changes.
        full_rows: From so many images on, >= 1, a batch's own statistics count alone; those of n fewer count
            n / full_rows, the stored ones the rest. 1 never blends.
        median: Take medians over images in place of means: robust as long as most images are what they should be.
        source_share: Share of the source's statistics in whatever a batch is normalised by, and in the moments that are
            reported, in [0, 1]: with 0.5, those of an endless stream end up half way between the source's and its own.
            Medians know no blend: from `full_rows` on they count alone.

    Raises:
        ValueError: If `full_rows` is not positive, or `source_share` not in [0, 1].
    """
    if full_rows < 1:
        raise ValueError(f"full_rows must be at least 1, got {full_rows}")
    if not 0 <= source_share <= 1:
        raise ValueError(f"source_share must be in [0, 1], got {source_share}")
    if "batchnorm" not in backbone.spec.capabilities or (full_rows == 1 and not median and not source_share):
        return backbone
    return cast(Backbone, _Robust(backbone, full_rows, median, source_share))


class _Robust:
    """All but `forward` is the backbone's own."""

    def __init__(self, backbone: Any, full_rows: int, median: bool, source_share: float) -> None:  # noqa: ANN401
        self._backbone = backbone
        self._full_rows = full_rows
        self._median = median
        self._moves = 1 - source_share
        self._source = backbone.norm_stats()
        self._share = torch.tensor(self._moves, device=backbone.device)  # made once: a copy to a GPU waits for it

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._backbone, name)

    def forward(self, x: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        """Run the network on `x` (N, C, H, W); see `Backbone.forward`."""
        return self._held(self._backbone.forward(x, overrides, self._safer(statistics, x.shape[0])))

    def stacks(self, overrides: Iterable[str]) -> bool:
        """Return whether `forward_stacked` takes overrides of these names."""
        return bool(getattr(self._backbone, "stacks", lambda _: False)(overrides))

    def forward_stacked(self, xs: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        """Run the network on images (S, N, C, H, W) of S streams, each override with S in front of its shape."""
        return self._held(self._backbone.forward_stacked(xs, overrides, self._safer(statistics, xs.shape[1])))

    def _safer(self, statistics: Statistics, rows: int) -> Statistics:
        if isinstance(statistics, float):
            return statistics * self._moves
        if statistics != "batch":
            return statistics
        if rows < self._full_rows:
            return rows / self._full_rows * self._moves
        if self._median:
            return "median"
        return self._moves if self._moves < 1 else "batch"

    def _held(self, output: Output) -> Output:
        """Return the output with moments of which the source's share is as large as in what normalised."""
        if self._moves == 1 or not output.moments:
            return output
        held = {name: tensor for name, tensor in self._source.items() if name in output.moments}
        return output._replace(moments=pool(held, output.moments, self._share))
