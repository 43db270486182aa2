"""A frozen backbone over any torch classifier."""

import copy
import hashlib
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tta_server.models.backbone import EMPTY, Output, Spec, Statistics, Tensors
from tta_server.models.norm import NormCall, StreamNorm, replace_batch_norm
from tta_server.models.style import listening

_AFFINE_NORMS = (StreamNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class TorchBackbone:
    """Freeze a classifier and let each call replace some of its tensors.

    The module is copied: what its owner does to the original later changes nothing here. Overriding swaps tensors
    inside the copy for the time of a call, so `forward` holds a lock and one thread should own the backbone.
    """

    def __init__(
        self,
        module: nn.Module,
        input_shape: tuple[int, int, int],
        *,
        name: str = "",
        head: str = "",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """Copy, freeze and probe `module`.

        Args:
            module: Classifier from normalised images (N, C, H, W) to logits (N, K).
            input_shape: (C, H, W) of one image.
            name: What people call the model; its class name when empty.
            head: Path of the Linear layer that makes the logits; the last one when empty.
            mean: Per-channel mean that is subtracted from images in [0, 1]; None is 0.
            std: Per-channel deviation that they are divided by; None is 1.
            device: Where to run.

        Raises:
            ValueError: If there is no such head, or the module does not map such images to that head's logits.
        """
        self.device = torch.device(device)
        self._lock = threading.Lock()
        self._call = NormCall()
        self._module = copy.deepcopy(module).to(self.device).eval().requires_grad_(False)
        self._batch_norms = replace_batch_norm(self._module, self._call)
        self.norm_layers = tuple(
            path for path, layer in self._module.named_modules() if isinstance(layer, _AFFINE_NORMS)
        )
        self._shapes = {name: tensor.shape for name, tensor in self._module.state_dict().items()}
        self._features: Tensor | None = None
        path, linear = _find_head(self._module, head)
        linear.register_forward_pre_hook(self._keep_features)
        channels = input_shape[0]
        self._mean = _per_channel(mean, 0.0, channels, "mean").to(linear.weight)
        self._std = _per_channel(std, 1.0, channels, "std").to(linear.weight)
        if not (self._std > 0).all():
            raise ValueError(f"std must be positive, got {std}")
        self.spec = Spec(
            name=name or type(module).__name__.lower(),
            digest=self.digest(),
            input_shape=input_shape,
            classes=linear.out_features,
            features=linear.in_features,
            capabilities=self._capabilities(),
        )
        self._probe(path)

    def forward(self, x: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        """Run the network on `x` (N, C, H, W) with some of its tensors replaced; see `Backbone.forward`."""
        self._check_images(x)
        self._check_overrides(overrides)
        return self._run(x, overrides, statistics)

    def stacks(self, overrides: Iterable[str]) -> bool:
        """Return whether `forward_stacked` takes these overrides: those of BatchNorm layers."""
        return all(name.rpartition(".")[0] in self._batch_norms for name in overrides)

    def forward_stacked(self, xs: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        """Run the network once on the images of S streams, each with overrides and statistics of its own.

        The network must treat the rows of a batch alike, but for BatchNorm layers: all streams are one batch to it.

        Args:
            xs: Images (S, N, C, H, W) in [0, 1], float32, on `device`.
            overrides: As `forward` takes them, with S in front of their shapes; of BatchNorm layers only.
            statistics: Which mean and variance BatchNorm layers use.

        Returns:
            What `forward` returns for each stream, with S in front.

        Raises:
            ValueError: If an override is not a tensor of a BatchNorm layer.
        """
        if xs.dim() != 5 or tuple(xs.shape[2:]) != self.spec.input_shape:
            expected = ", ".join(map(str, self.spec.input_shape))
            raise ValueError(f"image batches have shape {tuple(xs.shape)}, expected (S, N, {expected})")
        streams, rows = xs.shape[:2]
        if not self.stacks(overrides):
            raise ValueError(f"only tensors of BatchNorm layers can be stacked, got {', '.join(overrides)}")
        self._check_overrides(overrides, (streams,))
        logits, features, moments = self._run(xs.flatten(0, 1), overrides, statistics, streams)
        logits, features = (tensor.view(streams, rows, *tensor.shape[1:]) for tensor in (logits, features))
        return Output(logits, features, moments)

    @torch.no_grad()
    def styles(self, x: Tensor, layers: Sequence[str], answer: bool = True) -> tuple[Tensor, Output | None]:
        """Return the style of images as the frozen network sees them; see `Backbone.styles`."""
        self._check_images(x)
        unknown = [path for path in layers if path not in self.norm_layers]
        if unknown or not layers:
            raise ValueError(f"style needs normalisation layers of backbone '{self.spec.name}', got {list(layers)}")
        wanted = {path: self._module.get_submodule(path) for path in layers}
        output: Output | None = None
        with self._lock, listening(wanted, stop=not answer) as heard:
            output = self._locked(x, EMPTY, "stored")
        missed = [path for path in layers if path not in heard]
        if missed or any(len(found) != len(x) for found in heard.values()):
            raise ValueError(f"layer '{(missed or layers)[0]}' does not see each image once, so it has no style")
        return torch.cat([heard[path] for path in layers], 1), output

    def _run(self, x: Tensor, overrides: Tensors, statistics: Statistics, streams: int | None = None) -> Output:
        with self._lock:
            return self._locked(x, overrides, statistics, streams)

    def _locked(self, x: Tensor, overrides: Tensors, statistics: Statistics, streams: int | None = None) -> Output:
        self._call.statistics, self._call.moments, self._call.streams = statistics, {}, streams
        try:
            logits = functional_call(self._module, dict(overrides), ((x.to(self._mean) - self._mean) / self._std,))
            if self._features is None:
                raise ValueError(f"the head of backbone '{self.spec.name}' was not reached; name another head")
            return Output(logits, self._features, self._call.moments)
        finally:
            self._features, self._call.moments = None, {}

    def norm_affine(self) -> Tensors:
        """Return scales and shifts of the normalisation layers; see `Backbone.norm_affine`."""
        with self._lock:
            return {
                f"{path}.{kind}": parameter
                for path, layer in self._module.named_modules()
                if isinstance(layer, _AFFINE_NORMS)
                for kind, parameter in layer.named_parameters(recurse=False)
            }

    def norm_stats(self) -> Tensors:
        """Return the source means and variances of the BatchNorm layers; see `Backbone.norm_stats`."""
        with self._lock:
            state = self._module.state_dict()
        return {
            f"{path}.{kind}": state[f"{path}.{kind}"]
            for path in self._batch_norms
            for kind in ("running_mean", "running_var")
        }

    def weights(self) -> Tensors:
        """Return all parameters; see `Backbone.weights`."""
        with self._lock:
            return dict(self._module.named_parameters())

    def digest(self) -> str:
        """Compute the sha256 of the weights as they are now; see `Backbone.digest`."""
        sha = hashlib.sha256()
        with self._lock:  # a forward on another thread has its overrides swapped in
            for name, tensor in sorted(self._module.state_dict().items()):
                sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
                sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return sha.hexdigest()

    def _check_images(self, x: Tensor) -> None:
        if x.dim() != 4 or tuple(x.shape[1:]) != self.spec.input_shape:
            expected = ", ".join(map(str, self.spec.input_shape))
            raise ValueError(f"image batch has shape {tuple(x.shape)}, expected (N, {expected}); send channels first")

    def _check_overrides(self, overrides: Tensors, front: tuple[int, ...] = ()) -> None:
        unknown = overrides.keys() - self._shapes.keys()
        if unknown:
            raise ValueError(f"backbone '{self.spec.name}' has no tensor '{min(unknown)}' to override")
        for name, tensor in overrides.items():
            # Not left to torch: some wrong shapes broadcast.
            expected = (*front, *self._shapes[name])
            if tensor.shape != expected:
                raise ValueError(f"override '{name}' has shape {tuple(tensor.shape)}, expected {expected}")

    def _keep_features(self, _head: nn.Module, args: tuple[Any, ...]) -> None:
        self._features = args[0]

    def _capabilities(self) -> frozenset[str]:
        present = {"grad": True, "batchnorm": bool(self._batch_norms), "norm_affine": bool(self.norm_affine())}
        return frozenset(name for name, there in present.items() if there)

    def _probe(self, head: str) -> None:
        # Not zeros: a network may divide by the norm of its input.
        images = torch.rand(2, *self.spec.input_shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        try:
            logits, features, _ = self.forward(images)
        except ValueError:
            raise
        except Exception as error:  # a network raises whatever it likes at images that it is not made for
            raise ValueError(
                f"backbone '{self.spec.name}' cannot run on images {self.spec.input_shape}: {error}"
            ) from error
        expected = (2, self.spec.classes), (2, self.spec.features)
        if not isinstance(logits, Tensor) or (logits.shape, features.shape) != expected:
            shapes = tuple(getattr(logits, "shape", ())), tuple(features.shape)
            raise ValueError(
                f"head '{head}' of backbone '{self.spec.name}' makes logits and takes features of shape {shapes}, "
                f"expected {expected}; name the Linear layer that makes the logits"
            )


def _find_head(module: nn.Module, path: str) -> tuple[str, nn.Linear]:
    linears = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    if not linears:
        raise ValueError("the network has no Linear layer; its classification head must be one")
    if path and path not in linears:
        raise ValueError(f"head '{path}' is not a Linear layer of the network; it has {', '.join(linears)}")
    path = path or list(linears)[-1]
    return path, linears[path]


def _per_channel(values: Sequence[float] | None, default: float, channels: int, name: str) -> Tensor:
    values = [default] * channels if values is None else list(values)
    if len(values) != channels:
        raise ValueError(f"{name} has {len(values)} values, expected one for each of the {channels} channels")
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
