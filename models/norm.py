"""BatchNorm whose statistics can be the stored ones, an override of them, or the batch's own.

Source: Ioffe & Szegedy, ICML 2015, arXiv:1502.03167, equations 1 to 4.
Differs: nothing is updated in place; the batch's statistics are handed out instead of being folded into a buffer.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tta_server.models.backbone import Statistics, TooFewValuesError
from tta_server.models.slots import median_moments, moments, normalise, normalise_by_batch, normalise_by_stored


@dataclass
class NormCall:
    """What the layers of one network must know during one forward; owned by the backbone, guarded by its lock.

    Attributes:
        statistics: Which mean and variance to use.
        moments: Filled by the layers: what they saw, unless the statistics are the stored ones.
        streams: How many streams' rows follow one another in the batch; each has statistics of its own, and an
            overridden tensor is (S, C). None: one stream, whose tensors are (C,).
    """

    statistics: Statistics = "stored"
    moments: dict[str, Tensor] = field(default_factory=dict)
    streams: int | None = None


class StreamNorm(nn.Module):
    """Normalise (N, C), (N, C, L) or (N, C, H, W) per channel; parameter names are those of torch's BatchNorm."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, name: str, norm: _BatchNorm, call: NormCall) -> None:
        """Take over the tensors of `norm`.

        Args:
            name: Path of the layer in its network, the prefix of the moments it reports.
            norm: The layer to replace.
            call: Shared by all layers of the network.

        Raises:
            ValueError: If `norm` keeps no running statistics: there would be no source to fall back to. Or if it is a
                subclass that does more than normalise, such as one that also applies an activation.
        """
        super().__init__()
        if type(norm).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
            raise ValueError(
                f"layer '{name}' is a {type(norm).__name__} with a forward of its own, which would be lost; "
                "build the network with torch's BatchNorm"
            )
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError(f"layer '{name}' keeps no running statistics; build it with track_running_stats=True")
        self.name = name
        self.eps = norm.eps
        self.call = call
        self.register_parameter("weight", cast(nn.Parameter | None, norm.weight))
        self.register_parameter("bias", cast(nn.Parameter | None, norm.bias))
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` normalised, scaled and shifted; same shape.

        Raises:
            TooFewValuesError: If the batch's statistics are asked for and it has one value per channel.
        """
        if self.call.streams is not None:
            return self._stacked(x.view(self.call.streams, -1, *x.shape[1:])).flatten(0, 1)
        if self.call.statistics == "stored":
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        self._check_values(x)
        if self.call.statistics != "batch":
            return self._spelt_out(x, self.call.statistics)
        # Unlike F.batch_norm, this is the same fused kernel but also returns the statistics that it computed.
        normalised, mean, inverse_std = torch.native_batch_norm(
            x, self.weight, self.bias, None, None, True, 0.0, self.eps
        )
        biased = inverse_std.detach().square().reciprocal() - self.eps
        self._report(x, mean.detach(), biased.clamp(min=0))
        return normalised

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
        if x.numel() == x.shape[1]:
            raise TooFewValuesError(
                f"layer '{self.name}' needs more than one value per channel for batch statistics, got shape "
                f"{tuple(x.shape)}; send more images at once"
            )

    def _report(self, x: Tensor, mean: Tensor, biased: Tensor) -> None:
        """Hand out the moments of `x` (N, C, ...) or (S, N, C, ...), with a `mean` of (C,) or (S, C)."""
        images, *extent = x.shape[mean.dim() - 1 :]
        values = images * math.prod(extent[1:])
        found = {"running_mean": mean, "running_var": biased * (values / (values - 1))}
        for kind, tensor in found.items():
            # The kernel computes in float32 what a network may keep in half of it.
            self.call.moments[f"{self.name}.{kind}"] = tensor.to(self.running_mean.dtype)


def replace_batch_norm(module: nn.Module, call: NormCall) -> list[str]:
    """Replace every BatchNorm in `module` by a `StreamNorm`, in place.

    Returns:
        Paths of the replaced layers, in the order of registration.
    """
    replaced: dict[_BatchNorm, StreamNorm] = {}  # a layer that two places share stays shared
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if isinstance(layer, _BatchNorm):
            parent, _, attribute = name.rpartition(".")
            if layer not in replaced:
                replaced[layer] = StreamNorm(name, layer, call)
            setattr(module.get_submodule(parent), attribute, replaced[layer])
    return [norm.name for norm in replaced.values()]
