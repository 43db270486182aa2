"""From images in [0, 1] to what a network is given: less their mean, of its type and in its order in memory."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tta_server.models.arrange import channels_last, lay_channels_last


class Normaliser:
    """Prepare images for one network; normalised in float32 where the network computes in less."""

    def __init__(
        self,
        module: nn.Module,
        channels: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        device: torch.device,
    ) -> None:
        """Look at a network.

        Args:
            module: The network.
            channels: Of its images.
            mean: Per-channel mean that is subtracted; None is 0.
            std: Per-channel deviation that they are divided by; None is 1.
            device: Where the network is.

        Raises:
            ValueError: If there is not one positive deviation, or one mean, for each channel.
        """
        floats = (p for p in module.parameters() if p.is_floating_point())
        # Norms may be of another type than the rest.
        self.dtype = max(floats, key=Tensor.numel, default=torch.zeros(())).dtype
        self.channels_last = channels_last(module)
        exact = torch.promote_types(self.dtype, torch.float32)
        self.mean = _per_channel(mean, 0.0, channels, "mean").to(device, exact)
        self.std = _per_channel(std, 1.0, channels, "std").to(device, exact)
        if not (self.std > 0).all():
            raise ValueError(f"std must be positive, got {std}")

    def __call__(self, x: Tensor, copies: int = 1) -> Tensor:
        """Return images (N, C, H, W) as the network takes them, all of them so many times."""
        given = ((x.to(self.mean) - self.mean) / self.std).to(self.dtype)
        given = torch.cat([given] * copies) if copies > 1 else given
        return lay_channels_last(given) if self.channels_last else given


def _per_channel(values: Sequence[float] | None, default: float, channels: int, name: str) -> Tensor:
    values = [default] * channels if values is None else list(values)
    if len(values) != channels:
        raise ValueError(f"{name} has {len(values)} values, expected one for each of the {channels} channels")
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
