"""BatchNorm whose statistics can be the stored ones, an override of them, or the batch's own.

Source: Ioffe & Szegedy, ICML 2015, arXiv:1502.03167, equations 1 to 4.
Differs: nothing is updated in place; the batch's statistics are handed out instead of being folded into a buffer.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tta_server.models.backbone import Statistics, TooFewValuesError
from tta_server.models.slots import median_moments, moments, normalise, normalise_by_batch, normalise_by_stored

# Of torchvision, timm and others: a BatchNorm whose tensors are all buffers.
_FROZEN = re.compile("FrozenBatchNorm")


@dataclass
class NormCall:
    """What the layers of one network must know during one forward; owned by the backbone, guarded by its lock.

    Attributes:
        statistics: Which mean and variance to use.
        moments: Filled by the layers: what they saw, unless the statistics are the stored ones.
        streams: How many streams' rows follow one another in the batch; each has statistics of its own, and an
            overridden tensor is (S, C). None: one stream, whose tensors are (C,).
        rows: Images that the network was given, those of all streams.
        copies: How often each of them was given, because the network takes no single image.
        folds: By layer, how many rows of its own it has made of each image so far.
        traced: Whether an exporter follows: the number of rows is no number then, and statistics are the stored ones.
    """

    statistics: Statistics = "stored"
    moments: dict[str, Tensor] = field(default_factory=dict)
    streams: int | None = None
    rows: int = 1
    copies: int = 1
    folds: dict[str, set[int]] = field(default_factory=dict)
    traced: bool = False


class UnevenRowsError(ValueError):
    """A layer of a stacked forward does not see each stream's rows as it does alone."""


class StreamNorm(nn.Module):
    """Normalise (N, C), (N, C, L) or (N, C, H, W) per channel; parameter names are those of torch's BatchNorm."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, name: str, norm: nn.Module, call: NormCall, after: Sequence[str] = ()) -> None:
        """Take over the tensors of `norm`.

        Args:
            name: Path of the layer in its network, the prefix of the moments it reports.
            norm: The layer to replace: a BatchNorm that keeps running statistics, or what is one but in name.
            call: Shared by all layers of the network.
            after: Names of layers within `norm` that follow, such as an activation; they are kept.
        """
        super().__init__()
        self.name = name
        self.eps = cast(float, norm.eps)
        self.call = call
        for kind in ("weight", "bias"):
            tensor = getattr(norm, kind, None)
            own = tensor if tensor is None or isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, False)
            self.register_parameter(kind, own)
        for kind in ("running_mean", "running_var"):
            self.register_buffer(kind, cast(Tensor, getattr(norm, kind)))
        self.after = tuple(after)
        for kind in after:
            self.add_module(kind, norm.get_submodule(kind))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` normalised, scaled and shifted; same shape.

        Raises:
            TooFewValuesError: If the batch's statistics are asked for and it has one value per channel.
            UnevenRowsError: If the rows of streams cannot be told apart here.
        """
        normalised = self._normalised(x)
        for kind in self.after:
            normalised = self.get_submodule(kind)(normalised)
        return normalised

    def _normalised(self, x: Tensor) -> Tensor:
        if self.call.traced:
            return self._by_stored(x)
        fold, odd = divmod(len(x), self.call.rows)
        known = self.call.folds.setdefault(self.name, set())
        if self.call.streams is not None:
            if odd or (known and fold not in known):
                raise UnevenRowsError(f"layer '{self.name}' was given {len(x)} rows for {self.call.rows} images")
            return self._stacked(x.view(self.call.streams, -1, *x.shape[1:])).flatten(0, 1)
        if not odd:
            known.add(fold)
        if self.call.statistics == "stored":
            return self._by_stored(x)
        self._check_values(x)
        if self.call.statistics != "batch":
            return self._spelt_out(x, self.call.statistics)
        # Unlike F.batch_norm, this is the same fused kernel but also returns the statistics that it computed.
        normalised, mean, inverse_std = torch.native_batch_norm(
            x, self.weight, self.bias, None, None, True, 0.0, self.eps
        )
        biased = inverse_std.detach().square().reciprocal() - self.eps
        self._report(x, mean.detach(), biased.clamp(min=0))
        return normalised.to(x.dtype)  # under `vmap` it would have the type of the scales

    def _by_stored(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    def _spelt_out(self, x: Tensor, statistics: float | Literal["median"]) -> Tensor:
        # F.batch_norm has no gradient for statistics that are passed in.
        mean, var = (found[0] for found in self._moments(x[None]))
        self._report(x, mean.detach(), var.detach())
        if statistics != "median":
            mean, var = torch.lerp(self.running_mean, mean, statistics), torch.lerp(self.running_var, var, statistics)
        weight = None if self.weight is None else self.weight[None]
        bias = None if self.bias is None else self.bias[None]
        return normalise(x[None], mean[None], var[None], weight, bias, self.eps)[0]

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.to(self.running_mean.dtype)  # a network that computes in half precision may keep its norms in full
        return median_moments(x) if self.call.statistics == "median" else moments(x)

    def _stacked(self, x: Tensor) -> Tensor:
        """Return `x` (S, N, C, ...) normalised, each stream by its own statistics."""
        shape = len(x), x.shape[2]  # a tensor that is not overridden is every stream's
        weight = None if self.weight is None else self.weight.expand(shape)
        bias = None if self.bias is None else self.bias.expand(shape)
        mean, var = self.running_mean.expand(shape), self.running_var.expand(shape)
        if self.call.statistics == "stored":
            return normalise_by_stored(x, mean, var, weight, bias, self.eps)
        self._check_values(x[0])
        if self.call.statistics == "batch":
            normalised, found_mean, found_var = normalise_by_batch(x, weight, bias, self.eps)
            self._report(x, found_mean, found_var)
            return normalised
        found_mean, found_var = self._moments(x)
        self._report(x, found_mean.detach(), found_var.detach())
        share = 1.0 if self.call.statistics == "median" else self.call.statistics
        return normalise(
            x, torch.lerp(mean, found_mean, share), torch.lerp(var, found_var, share), weight, bias, self.eps
        )

    def _check_values(self, x: Tensor) -> None:
        if x.numel() == x.shape[1] * self.call.copies:
            raise TooFewValuesError(
                f"layer '{self.name}' needs more than one value per channel for batch statistics, got shape "
                f"{tuple(x.shape)}; send more images at once"
            )

    def _report(self, x: Tensor, mean: Tensor, biased: Tensor) -> None:
        """Hand out the moments of `x` (N, C, ...) or (S, N, C, ...), with a `mean` of (C,) or (S, C)."""
        images, *extent = x.shape[mean.dim() - 1 :]
        values = images * math.prod(extent[1:]) // self.call.copies
        found = {"running_mean": mean, "running_var": biased * (values / (values - 1))}
        for kind, tensor in found.items():
            # The kernel computes in float32 what a network may keep in half of it.
            self.call.moments[f"{self.name}.{kind}"] = tensor.to(self.running_mean.dtype)


def replace_batch_norm(module: nn.Module, call: NormCall) -> tuple[list[str], list[str]]:
    """Replace every BatchNorm in `module` by a `StreamNorm`, in place.

    What a library has made of a BatchNorm is one too if it does nothing but that and a layer that follows.

    Returns:
        Paths of the replaced layers, in the order of registration, and of those left as they are: they normalise in
        a way of their own.
    """
    replaced: dict[nn.Module, StreamNorm] = {}  # a layer that two places share stays shared
    left: list[str] = []
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if not is_batch_norm(layer):
            continue
        parent, _, attribute = name.rpartition(".")
        if layer not in replaced:
            after = _after(layer)
            if after is None:
                left.append(name)
                continue
            replaced[layer] = StreamNorm(name, layer, call, after)
        setattr(module.get_submodule(parent), attribute, replaced[layer])
    return [norm.name for norm in replaced.values()], left


def is_batch_norm(layer: nn.Module) -> bool:
    """Return whether a layer calls itself a BatchNorm; it may do more than one."""
    return isinstance(layer, _BatchNorm) or bool(_FROZEN.match(type(layer).__name__))


def _after(layer: nn.Module) -> tuple[str, ...] | None:
    """Return the names of the layers within a BatchNorm that follow it; None if it does something else."""
    if getattr(layer, "running_mean", None) is None or getattr(layer, "running_var", None) is None:
        return None
    if layer._forward_hooks or layer._forward_pre_hooks:  # whatever they do, it is a part of the layer
        return None
    if type(layer).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
        return ()
    after = tuple(name for name in ("drop", "act") if isinstance(getattr(layer, name, None), nn.Module))
    mean = cast(Tensor, layer.running_mean)
    dimensions = 0 if isinstance(layer, nn.BatchNorm1d) else 3 if isinstance(layer, nn.BatchNorm3d) else 2
    shape = 2, len(mean), *[2] * dimensions
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(mean) * 4 - 2
    try:
        same = torch.allclose(layer(x), StreamNorm("", layer, NormCall(rows=2), after)(x), rtol=1e-3, atol=1e-4)
    except Exception:  # a layer may need whatever it likes
        return None
    return after if same else None
