"""BatchNorm whose statistics can be the stored ones, an override of them, or the batch's own.

Source: Ioffe & Szegedy, ICML 2015, arXiv:1502.03167, equations 1 to 4.
Differs: nothing is updated in place; the batch's statistics are handed out instead of being folded into a buffer.
"""

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.backbone import Statistics


@dataclass
class NormCall:
    """What the layers of one network must know during one forward; owned by the backbone, guarded by its lock."""

    statistics: Statistics = "stored"
    moments: dict[str, Tensor] = field(default_factory=dict)


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
            ValueError: If `norm` keeps no running statistics: there would be no source to fall back to.
        """
        super().__init__()
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
        """Return `x` normalised, scaled and shifted; same shape."""
        if self.call.statistics == "stored":
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        # Unlike F.batch_norm, this is the same fused kernel but also returns the statistics that it computed.
        normalised, mean, inverse_std = torch.native_batch_norm(
            x, self.weight, self.bias, None, None, True, 0.0, self.eps
        )
        self._report(x, mean.detach(), inverse_std.detach())
        return normalised

    def _report(self, x: Tensor, mean: Tensor, inverse_std: Tensor) -> None:
        images = x.shape[0]
        values = x.numel() // x.shape[1]
        biased = (inverse_std.square().reciprocal() - self.eps).clamp(min=0)
        image_means = x.detach().flatten(2).mean(2) if x.dim() > 2 else x.detach()
        # The spread between one image and itself says nothing: the error is unknown, not zero.
        noise = image_means.var(0) / images if images > 1 else torch.full_like(mean, torch.inf)
        self.call.moments[f"{self.name}.running_mean"] = mean
        self.call.moments[f"{self.name}.running_var"] = biased * (values / max(values - 1, 1))
        self.call.moments[f"{self.name}.noise"] = noise


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
