"""A tensor under several names: of a layer that a network has twice, or of two layers that share it."""

from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from tta_server.models.backbone import Tensors


class Ties:
    """Which names of a network's tensors mean the same."""

    def __init__(self, module: nn.Module) -> None:
        """Look at a network, which keeps its layers and tensors."""
        first = {layer: path for path, layer in module.named_modules()}
        self._known: dict[str, str] = {}  # the name by which a layer comes first, of every other that it has
        together: dict[int, list[str]] = {}
        for path, layer in module.named_modules(remove_duplicate=False):
            for name, tensor in chain(layer._parameters.items(), layer._buffers.items()):
                if path != first[layer]:
                    self._known[_joined(path, name)] = _joined(first[layer], name)
                elif tensor is not None:
                    together.setdefault(id(tensor), []).append(_joined(path, name))
        self._shared = {names[0]: names for names in together.values() if len(names) > 1}
        self._first = {name: names[0] for names in self._shared.values() for name in names}

    def first(self, name: str) -> str:
        """Return the one of a tensor's names that stands for all of them."""
        known = self._known.get(name, name)
        return self._first.get(known, known)

    def named(self, given: Tensors) -> dict[str, Tensor]:
        """Return tensors by the names that stand for all of theirs."""
        return {self.first(name): tensor for name, tensor in given.items()}

    def call(self, module: nn.Module, given: Tensors, *args: Tensor) -> Any:  # noqa: ANN401 (whatever it returns)
        """Run a network that is built alike with some of its tensors replaced, wherever it takes them from.

        torch's own way with ties would swap a layer that is there twice two times, and put one of both back.

        Args:
            module: The network.
            given: As `named` returns it.
            args: What the network is given.
        """
        places = {place: tensor for name, tensor in given.items() for place in self._shared.get(name, (name,))}
        return functional_call(module, places, args, tie_weights=False)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
