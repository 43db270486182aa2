"""A frozen network as one function of tensors, which exporters can follow from images to answers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tta_server.models.backbone import Tensors
from tta_server.models.head import Reading, features_of
from tta_server.models.norm import NormCall
from tta_server.models.style import listening
from tta_server.models.ties import Ties


class Traced(nn.Module):
    """From images in [0, 1] to logits and features, with stored statistics; overrides are inputs like the images."""

    def __init__(
        self,
        module: nn.Module,
        ties: Ties,
        reading: Reading,
        call: NormCall,
        normalisation: tuple[Tensor, Tensor],
        layers: Sequence[str] = (),
    ) -> None:
        """Take a network as `TorchBackbone` has it.

        Args:
            module: The frozen network; nothing else may run it meanwhile.
            ties: Which of its names mean the same.
            reading: Where its logits and features are.
            call: What its normalisation layers are told.
            normalisation: What is subtracted from the images, and what they are then divided by (1, C, 1, 1).
            layers: Normalisation layers whose style is wanted too.
        """
        super().__init__()
        self._module = module
        self._ties = ties
        self._reading = reading
        self._call = call
        self._normalisation = normalisation
        self._layers = {path: module.get_submodule(path) for path in layers}

    def forward(self, x: Tensor, overrides: Tensors) -> tuple[Tensor, ...]:
        """Return logits (N, K), features (N, D) and, if layers are named, styles (N, ...) of images (N, C, H, W)."""
        heard: list[Tensor] = []
        mean, std = self._normalisation
        head = self._module.get_submodule(self._reading.head) if self._reading.head else None
        listener = head and head.register_forward_pre_hook(lambda _, args: heard.append(features_of(args[0])))
        self._call.traced = True
        try:
            with listening(self._layers, stop=False) as styles:
                outcome = self._ties.call(self._module, self._ties.named(overrides), (x.to(mean) - mean) / std)
        finally:
            self._call.traced = False
            if listener:
                listener.remove()
        logits = self._reading.logits(outcome)
        found = logits, heard[-1] if heard else logits
        return (*found, torch.cat([styles[path] for path in self._layers], 1)) if self._layers else found
