"""A backbone that answers through ONNX Runtime, and leaves to torch what only torch can do."""

import copy
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from tta_server.models.backbone import (
    EMPTY,
    Findings,
    Output,
    Spec,
    Statistics,
    Tensors,
    distance,
    random_images,
    replaceable,
)
from tta_server.models.onnx_export import (
    FEATURES,
    IMAGES,
    LOGITS,
    STYLE,
)
from tta_server.models.onnx_graphs import Graph, Graphs
from tta_server.models.onnx_session import OnnxSession
from tta_server.models.reason import reason
from tta_server.models.torch_backbone import TorchBackbone

MOST_APART = 1e-4
"""How far answers of the two runtimes may be apart, of the largest logit or feature."""

_ANSWER = LOGITS, FEATURES
_TRIED_ROWS = 1, 3
_RUN_ROWS = 8  # images of one run for each thread; of those over 224 pixels as many numbers


def rows_of_run(input_shape: tuple[int, int, int], threads: int) -> int:
    """Return how many images a CPU answers at once: what layers make of more does not stay in its cache."""
    return threads * max(1, min(_RUN_ROWS, _RUN_ROWS * 3 * 224 * 224 // math.prod(input_shape)))


def in_runs(
    session: OnnxSession, x: Tensor, made: Sequence[str], rows: int, overrides: Tensors = EMPTY
) -> list[Tensor]:
    """Return what a graph says of images (N, C, H, W), of at most `rows` at a time; see `OnnxSession.run`."""
    if len(x) <= rows:
        return session.run({IMAGES: x, **overrides}, made)
    runs = [session.run({IMAGES: part, **overrides}, made) for part in torch.split(x, rows)]
    return [torch.cat(parts) for parts in zip(*runs, strict=True)]


class OnnxBackbone:
    """Answer with stored statistics through ONNX Runtime; batch statistics, gradients and other weights are torch's.

    There are three graphs: the source, folded; its beginning, as far as styles need it; and one whose normalisation
    layers are inputs. Streams that share a forward take turns in it, so that each has the bits that it has alone; and
    one that has learnt nothing has those of the source.
    """

    def __init__(self, backbone: TorchBackbone, graphs: Graphs) -> None:
        """Load the graphs and compare the two.

        Args:
            backbone: The network, as torch runs it.
            graphs: As ONNX Runtime is to run it.

        Raises:
            ValueError: If a package is missing, the graphs are not of this network, or answers are too far apart.
        """
        self._torch = backbone
        self._layers = graphs.layers
        self._source, self._streams = (self._session(graph) for graph in (graphs.source, graphs.streams))
        self._styles = self._session(graphs.styles) if graphs.styles else None
        self._inputs = replaceable(backbone)
        self._stacks = backbone.stacks(self._inputs)
        self._check()

    def twin(self) -> "OnnxBackbone":
        """Return the same for another thread; see `Backbone.twin`. Sessions take several at once."""
        twin = copy.copy(self)
        twin._torch = self._torch.twin()
        return twin

    @property
    def spec(self) -> Spec:
        """Facts about the network."""
        return self._torch.spec

    @property
    def findings(self) -> Findings:
        """What trials of the network showed; where torch would stack by `vmap`, streams take turns."""
        found = self._torch.findings
        if not found.stacks or self._stacks:
            return found
        remark = "off: what a stream may move is not all of BatchNorm layers; streams take turns"
        return replace(found, stacks=False, remarks={**found.remarks, "stacking": remark})

    @property
    def about(self) -> str:
        """What runs it, in words."""
        return self._source.about

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._torch.device

    @property
    def norm_layers(self) -> tuple[str, ...]:
        """Paths of the normalisation layers, in the order of registration."""
        return self._torch.norm_layers

    def forward(self, x: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        """Run the network on `x` (N, C, H, W) with some of its tensors replaced; see `Backbone.forward`."""
        if statistics != "stored" or not self._takes(x, overrides):
            return self._torch.forward(x, overrides, statistics)
        self._torch.check(x, overrides)
        if self._are_the_sources(overrides):
            logits, features = self._run(self._source, x, _ANSWER)
        else:
            logits, features = self._run(self._streams, x, _ANSWER, overrides)
        return Output(logits, features)

    def stacks(self, overrides: Iterable[str]) -> bool:
        """Return whether `forward_stacked` takes overrides of these names."""
        return self._torch.stacks(overrides)

    def forward_stacked(self, xs: Tensor, overrides: Tensors = EMPTY, statistics: Statistics = "stored") -> Output:
        """Run the network on images (S, N, C, H, W) of S streams; see `TorchBackbone.forward_stacked`."""
        if statistics != "stored" or not self._takes(xs, overrides):
            return self._torch.forward_stacked(xs, overrides, statistics)
        own = ({name: tensor[i] for name, tensor in overrides.items()} for i in range(len(xs)))
        outputs = [self.forward(x, state) for x, state in zip(xs, own, strict=True)]
        return Output(torch.stack([each.logits for each in outputs]), torch.stack([each.features for each in outputs]))

    def styles(self, x: Tensor, layers: Sequence[str], answer: bool = True) -> tuple[Tensor, Output | None]:
        """Return the style of images as the frozen network sees them; see `Backbone.styles`."""
        if tuple(layers) != self._layers or not self._styles:
            return self._torch.styles(x, layers, answer=False)[0], self.forward(x) if answer else None
        self._torch.check(x, EMPTY)
        if not answer:
            return self._run(self._styles, x, [STYLE])[0], None
        logits, features, styles = self._run(self._source, x, [*_ANSWER, STYLE])
        return styles, Output(logits, features)

    def norm_affine(self) -> Tensors:
        """Return scales and shifts of the normalisation layers; see `Backbone.norm_affine`."""
        return self._torch.norm_affine()

    def norm_stats(self) -> Tensors:
        """Return the source means and variances of the BatchNorm layers; see `Backbone.norm_stats`."""
        return self._torch.norm_stats()

    def weights(self) -> Tensors:
        """Return all parameters; see `Backbone.weights`."""
        return self._torch.weights()

    def digest(self) -> str:
        """Compute the sha256 of torch's weights as they are now; see `Backbone.digest`."""
        return self._torch.digest()

    def _session(self, graph: Graph) -> OnnxSession:
        try:
            file = graph.filled(self._torch)
        except KeyError as missing:
            raise ValueError(f"the ONNX graphs are of another network: this one has no tensor {missing}") from missing
        return OnnxSession(file, self.device)

    def _run(self, session: OnnxSession, x: Tensor, made: Sequence[str], overrides: Tensors = EMPTY) -> list[Tensor]:
        """Run a graph, on a CPU on a few images at a time where rows are apart."""
        whole = len(x) <= self._most_rows or not self._torch.findings.apart
        return in_runs(session, x, made, len(x) if whole else self._most_rows, overrides)

    @cached_property
    def _most_rows(self) -> int:
        return rows_of_run(self.spec.input_shape, self._source.threads) if self.device.type == "cpu" else sys.maxsize

    def _are_the_sources(self, overrides: Tensors) -> bool:
        return all(torch.equal(tensor, self._inputs[name]) for name, tensor in overrides.items())

    def _takes(self, x: Tensor, overrides: Tensors) -> bool:
        """Return whether a graph can answer a call with stored statistics."""
        if torch._C._are_functorch_transforms_active():  # inside `vmap` tensors have no memory of their own
            return False
        learnt = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *overrides.values()))
        return not learnt and overrides.keys() <= self._inputs.keys()

    def _try_styles(self, x: Tensor) -> None:
        """Ask for styles alone and with answers; not compared: the deviation of a channel next to still is rounding."""
        expected, _ = self._torch.styles(x, self._layers, answer=False)
        for answer in (False, True):
            found, _ = self.styles(x, self._layers, answer)
            if found.shape != expected.shape:
                raise ValueError(f"its styles are {tuple(found.shape)}, expected {tuple(expected.shape)}")

    def _check(self) -> None:
        """Compare the runtimes as the source and with tensors that have moved."""
        generator = torch.Generator().manual_seed(0)
        moved = {
            name: tensor * (0.9 + 0.2 * torch.rand(tensor.shape, generator=generator)).to(tensor)
            for name, tensor in self._inputs.items()
        }
        for rows in _TRIED_ROWS:
            x = random_images(self, rows)
            for overrides in (EMPTY, moved):
                try:
                    apart = distance(self.forward(x, overrides), self._torch.forward(x, overrides))
                    if self._styles and not overrides:
                        self._try_styles(x)
                except Exception as error:  # ONNX Runtime has classes of its own
                    raise ValueError(
                        f"network '{self.spec.name}' does not run on ONNX Runtime: {reason(error, 300)}"
                    ) from error
                if not apart <= MOST_APART:
                    raise ValueError(
                        f"network '{self.spec.name}' answers otherwise on ONNX Runtime: {apart:.1e} of its largest "
                        f"logit or feature apart, expected at most {MOST_APART:.0e}; use runtime torch"
                    )
