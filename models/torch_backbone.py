"""A frozen backbone over any torch classifier."""

import copy
import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from tta_server.models.affine_norm import is_norm, own_parameters
from tta_server.models.arrange import lay_channels_last
from tta_server.models.backbone import EMPTY, Findings, Output, Spec, Statistics, Tensors
from tta_server.models.freeze import damaged, freeze, left_alone, tensors
from tta_server.models.head import Reading, features_of, find_reading
from tta_server.models.images import check_images
from tta_server.models.logits import Wanted
from tta_server.models.norm import NormCall, UnevenRowsError
from tta_server.models.normaliser import Normaliser
from tta_server.models.own_lock import OwnLock
from tta_server.models.own_state import OwnState, OwnStateError
from tta_server.models.probe import equal, is_normalised, probe, reached
from tta_server.models.reason import reason
from tta_server.models.style import listening
from tta_server.models.take_norms import take_norms
from tta_server.models.ties import Ties
from tta_server.models.traced import Traced

log = logging.getLogger(__name__)

_TRIED_ROWS = 3


class TorchBackbone:
    """Freeze a classifier and let each call replace some of its tensors.

    The module is copied: what its owner does to the original later changes nothing here. Overriding swaps tensors
    inside the copy for the time of a call, so `forward` holds a lock and one thread should own the backbone. What the
    network writes into itself in its forward is what it was frozen as at the start of each: no call leaves anything
    behind for another.
    """

    def __init__(
        self,
        module: nn.Module,
        input_shape: tuple[int, int, int],
        *,
        name: str = "",
        head: str | Wanted = "",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """Copy and freeze `module`, and find out how to read it.

        Args:
            module: Classifier from normalised images (N, C, H, W) to logits (N, K), or to a dict or tuple with them;
                of probabilities, the logarithms are taken.
            input_shape: (C, H, W) of one image.
            name: What people call the model; its class name when empty.
            head: Path of the layer that makes the logits; when empty the one that does so, as far as can be seen. Or
                what else is known of them, which helps to tell them from other tensors.
            mean: Per-channel mean that is subtracted from images in [0, 1]; None is 0.
            std: Per-channel deviation that they are divided by; None is 1.
            device: Where to run.

        Raises:
            ValueError: If the module cannot be copied, does not map such images to logits, or has no such head.
        """
        self.device = torch.device(device)
        self._lock = OwnLock()
        self._call = NormCall()
        self._name = name or type(module).__name__.lower()
        self._module = freeze(module, self.device)
        self._normaliser = Normaliser(self._module, input_shape[0], mean, std, self.device)
        # Not zeros: a network may divide by the norm of its input.
        images = torch.rand(_TRIED_ROWS, *input_shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        self._features: Tensor | None = None
        self._own_state = OwnState(self._module)
        self._pairs = False
        self._uneven = ""
        with left_alone(module, self._module):
            self._batch_norms, self._left_norms = take_norms(self._module, self._call, self._normaliser(images))
            self._ties = Ties(self._module)
            self._reading = self._find_reading(images, Wanted(head) if isinstance(head, str) else head)
        self.norm_layers = tuple(path for path, layer in self._module.named_modules() if path and is_norm(layer))
        self._shapes = {name: tensor.shape for name, tensor in tensors(self._module).items()}
        digest = self.digest()
        if self._reading.head:
            self._module.get_submodule(self._reading.head).register_forward_pre_hook(self._keep_features)
        self.spec = Spec(
            name=self._name,
            digest=digest,
            input_shape=input_shape,
            classes=self._reading.classes,
            features=self._reading.features,
            capabilities=self._capabilities(images),
            memory_format="channels_last" if self._normaliser.channels_last else "contiguous",
        )
        self._try_answers(images)

    def forward(self, x: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        """Run the network on `x` (N, C, H, W) with some of its tensors replaced; see `Backbone.forward`."""
        self.check(x, overrides)
        return self._run(x, overrides, statistics)

    def check(self, x: Tensor, overrides: Tensors) -> None:
        """Raise ValueError if these are no images of this network's, or no tensors that replace some of its own."""
        check_images(x, self.spec.input_shape)
        self._check_overrides(overrides)

    def stacks(self, overrides: Iterable[str]) -> bool:
        """Return whether `forward_stacked` takes these overrides: those of BatchNorm layers."""
        return all(name.rpartition(".")[0] in self._batch_norms for name in overrides)

    def forward_stacked(self, xs: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        """Run the network once on the images of S streams, each with overrides and statistics of its own.

        The network must treat the rows of a batch alike, but for BatchNorm layers: all streams are one batch to it.
        `findings` says whether it does.

        Args:
            xs: Images (S, N, C, H, W) in [0, 1], float32, on `device`.
            overrides: As `forward` takes them, with S in front of their shapes; of BatchNorm layers only.
            statistics: Which mean and variance BatchNorm layers use.

        Returns:
            What `forward` returns for each stream, with S in front.

        Raises:
            ValueError: If these are no images, an override is not a tensor of a BatchNorm layer, or one of these layers
                sees other rows than the network was given; it is not stacked from then on.
        """
        check_images(xs, self.spec.input_shape, "S, N")
        streams, rows = xs.shape[:2]
        if not self.stacks(overrides):
            raise ValueError(f"only tensors of BatchNorm layers can be stacked, got {', '.join(overrides)}")
        self._check_overrides(overrides, (streams,))
        try:
            logits, features, moments = self._run(xs.flatten(0, 1), overrides, statistics, streams)
        except UnevenRowsError as error:
            self._uneven = str(error)
            log.warning("streams of '%s' take turns from now on: %s", self.spec.name, error)
            raise
        logits, features = (tensor.view(streams, rows, *tensor.shape[1:]) for tensor in (logits, features))
        return Output(logits, features, moments)

    @torch.no_grad()
    def styles(self, x: Tensor, layers: Sequence[str], answer: bool = True) -> tuple[Tensor, Output | None]:
        """Return the style of images as the frozen network sees them; see `Backbone.styles`."""
        check_images(x, self.spec.input_shape)
        unknown = [path for path in layers if path not in self.norm_layers]
        if unknown or not layers:
            raise ValueError(f"style needs normalisation layers of backbone '{self.spec.name}', got {list(layers)}")
        wanted = {path: self._module.get_submodule(path) for path in layers}
        output: Output | None = None
        with self._lock, listening(wanted, stop=not answer) as heard:
            output = self._locked(x, EMPTY, "stored")
        missed = [path for path in layers if path not in heard]
        found = {path: style[: len(x)] if self._copies(x) > 1 else style for path, style in heard.items()}
        if missed or any(len(style) != len(x) for style in found.values()):
            raise ValueError(f"layer '{(missed or layers)[0]}' does not see each image once, so it has no style")
        return torch.cat([found[path] for path in layers], 1), output

    @contextmanager
    def traced(self, layers: Sequence[str] = ()) -> Iterator[Traced]:
        """Give the network as exporters follow it, with the styles of some layers; nothing else runs it meanwhile."""
        with self._lock:
            normalisation = self._normaliser.mean, self._normaliser.std
            try:
                yield Traced(self._module, self._ties, self._reading, self._call, normalisation, layers)
            finally:
                self._own_state.end()

    def twin(self) -> "TorchBackbone":
        """Return the same network for another thread, or this one where nothing is learnt; see `Backbone.twin`."""
        if not self.spec.capabilities & {"grad", "batchnorm"}:
            return self
        _ = self._probed  # what trials showed holds for both
        twin, shared = copy.copy(self), [*self._module.parameters(), *self._module.buffers()]
        memo: dict[int, Any] = {id(self): twin} | {id(tensor): tensor for tensor in shared}
        twin._lock = OwnLock()
        try:
            twin._call, twin._module = copy.deepcopy(self._call, memo), copy.deepcopy(self._module, memo)
            twin._own_state = self._own_state.of(twin._module)
            same = set(twin._module.modules()) & set(self._module.modules())  # a layer may give itself for its copy
            return self if same or not equal(self, twin) else twin
        except Exception:  # a network may hold anything
            return self

    @property
    def findings(self) -> Findings:
        """What trials of the network showed; the first call runs them, which takes some forwards."""
        found = self._probed
        if not (self._uneven and found.stacks):
            return found
        remarks = {**found.remarks, "stacking": f"off: {self._uneven}; streams take turns"}
        return replace(found, stacks=False, remarks=remarks)

    @cached_property
    def _probed(self) -> Findings:
        found = probe(self, self._own_state.trial)
        return replace(found, remarks={**self._facts(), **found.remarks})

    def _run(self, x: Tensor, overrides: Tensors, statistics: Statistics, streams: int | None = None) -> Output:
        with self._lock:
            return self._locked(x, overrides, statistics, streams)

    def _locked(self, x: Tensor, overrides: Tensors, statistics: Statistics, streams: int | None = None) -> Output:
        call, copies = self._call, self._copies(x)
        call.statistics, call.moments, call.streams = statistics, {}, streams
        call.rows, call.copies = copies * len(x), copies
        try:
            replaced, given = self._own_state.begun(overrides, self._ties), self._normaliser(x, copies)
            if self._normaliser.channels_last:  # an override that comes from a file does not lie so
                replaced = {name: lay_channels_last(tensor) for name, tensor in replaced.items()}
            outcome = self._ties.call(self._module, replaced, given) if replaced else self._module(given)
            logits = self._reading.logits(outcome)
            features = self._features if self._reading.head else logits
            if features is None:
                raise ValueError(f"the head of backbone '{self.spec.name}' was not reached; name another head")
            if logits.shape != (call.rows, self._reading.classes) or len(features) != call.rows:
                raise ValueError(
                    f"backbone '{self.spec.name}' returned logits {tuple(logits.shape)} for {call.rows} images"
                )
            return Output(logits[: len(x)], features[: len(x)], call.moments)
        finally:
            self._features, call.moments = None, {}
            self._own_state.end()

    def _copies(self, x: Tensor) -> int:
        return 2 if self._pairs and len(x) == 1 else 1

    def norm_affine(self) -> Tensors:
        """Return scales and shifts of the normalisation layers; see `Backbone.norm_affine`."""
        with self._lock:
            return {
                f"{path}.{kind}": parameter
                for path in self.norm_layers
                for kind, parameter in own_parameters(self._module.get_submodule(path)).items()
            }

    def norm_stats(self) -> Tensors:
        """Return the source means and variances of the BatchNorm layers; see `Backbone.norm_stats`."""
        with self._lock:
            return {
                f"{path}.{kind}": self._module.get_submodule(path).get_buffer(kind)
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
            now = tensors(self._module)
            for name, tensor in sorted((name, now[name]) for name in self._shapes if name in now):
                sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
                sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return sha.hexdigest()

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
        self._features = features_of(args[0])

    def _capabilities(self, images: Tensor) -> frozenset[str]:
        run = partial(self._run, images, statistics="stored")
        grad, affine = reached(run, self.weights(), list(self.norm_affine()))
        normalises = bool(self._batch_norms) and is_normalised(partial(self._run, images, EMPTY, "batch"))
        present = {"grad": grad, "batchnorm": normalises, "norm_affine": affine}
        return frozenset(name for name, there in present.items() if there)

    def _find_reading(self, images: Tensor, wanted: Wanted) -> Reading:
        def run(x: Tensor) -> Any:  # noqa: ANN401
            try:
                return self._module(self._normaliser(x))
            except OwnStateError:
                raise
            except Exception as error:  # a network raises whatever it likes at images that it is not made for
                shape = tuple(x.shape[1:])
                raise ValueError(f"it cannot run on {len(x)} images of shape {shape}: {reason(error)}") from error

        self._call.rows = len(images)
        try:
            self._own_state.settle(run, images)
            with self._own_state.trial():
                return find_reading(self._module, run, images, wanted)
        except ValueError as error:
            raise ValueError(f"network '{self._name}' cannot be served: {error}") from error

    def _try_answers(self, images: Tensor) -> None:
        with self._own_state.trial():
            if not self.forward(images).logits.isfinite().all():
                said = damaged(self._module) or "where a class is ruled out, give it a large negative number"
                raise ValueError(
                    f"network '{self._name}' cannot be served: its scores of random images are not finite; {said}"
                )
            try:
                self.forward(images[:1])
            except Exception:  # such as a squeeze that drops the dimension of a single image
                self._pairs = True
                self._try_pair(images[:1])

    def _try_pair(self, image: Tensor) -> None:
        try:
            self.forward(image)
        except Exception as error:
            raise ValueError(
                f"network '{self._name}' cannot be served: it takes no batch of one or two images ({reason(error)})"
            ) from error

    def _facts(self) -> dict[str, str]:
        """Return what a person should know of the network, by subject."""
        kinds = Counter(type(self._module.get_submodule(path)).__name__ for path in self.norm_layers)
        types = Counter(str(t.dtype).removeprefix("torch.") for t in self._module.parameters())
        facts = {
            **self._reading.remarks,
            "type": ", ".join(f"{kind} ({count} tensors)" for kind, count in types.most_common()) or _FIXED,
            "norm layers": ", ".join(f"{count} {_KINDS.get(kind, kind)}" for kind, count in kinds.items()) or "none",
        }
        if self._left_norms:
            left = ", ".join(self._left_norms)
            facts["fixed norms"] = f"{left}: what is more than a BatchNorm, or read as more, keeps its statistics"
        facts |= {kind: f"{names}: written in forward, and as frozen in each" for kind, names in self._own_state.seen()}
        if self._pairs:
            facts["single images"] = "are given to it twice: it takes no batch of one"
        return facts


_KINDS = {"StreamNorm": "BatchNorm"}
_FIXED = "no parameters: nothing in it can be moved, so adapters have its answers and features only"
