"""AdaNPC: classify by the nearest remembered features, and remember what was classified with confidence.

Source: Zhang et al., ICML 2023, arXiv:2304.12566, section 3. Reference: AdaNPC/domainbed/adapt_algorithms.py.
Differs: new rows go into one preallocated ring per class, so memory is bounded and balanced; no random first row; the
confidence of a vote is the vote ("reference" is the authors' softmax of it, which is at most e/(e + K - 1), so that
their threshold keeps all or nothing).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tta_server.adapters.base import Adapter, State, Step, accept, register
from tta_server.adapters.bounds import Within, check_bytes
from tta_server.adapters.losses import log_probabilities, one_hot
from tta_server.models import Backbone, Output, Reference


@register
@dataclass(frozen=True)
class AdaNPC(Adapter):
    """Vote among the k nearest rows of a memory of source features and of the stream's own.

    Attributes:
        neighbours: Rows that vote, in [1, 256]; fewer vote while the memory holds fewer.
        temperature: Of the softmax over their cosines, in (0, 100].
        confidence: Which confidence `threshold` is compared with: "vote" or "reference".
        threshold: Least confidence of a vote that is remembered; in [0, 2]; 0 remembers every one, above 1 none.
        capacity: Rows of the stream's own kept, over all classes; each class has an equal share, at least 1. In
            [1, 65536], and no more than 256 MiB.
    """

    neighbours: Annotated[int, Within(1, 256, why="every image weighs so many votes")] = 10
    temperature: Annotated[float, Within(0, 100, above=True)] = 0.1
    confidence: Literal["vote", "reference"] = "vote"
    threshold: Annotated[float, Within(0, 2)] = 0.9
    capacity: Annotated[int, Within(1, 65536, why="every stream keeps so many features")] = 2048

    name: ClassVar[str] = "adanpc"
    requires: ClassVar[frozenset[str]] = frozenset({"reference.memory"})
    unbounded: ClassVar[frozenset[str]] = frozenset({"source", "ring"})
    stackable: ClassVar[bool] = True

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return the source rows of the bundle and empty rings.

        Raises:
            ValueError: If there is no bundle, it has no memory, or the rings would be too large.
        """
        if reference is None:
            raise ValueError("adapter 'adanpc' needs a reference bundle; make it with 'tta-server calibrate'")
        source, classes = reference.part("memory"), backbone.spec.classes
        features = normalize(source["features"].to(backbone.device))
        share = max(self.capacity // classes, 1)
        check_bytes(
            f"a capacity of {self.capacity}", features.new_empty(classes, share, features.shape[1], device="meta")
        )
        return {
            "source/features": features,
            "source/labels": source["labels"].to(backbone.device),
            "ring/features": features.new_zeros(classes, share, features.shape[1]),
            "ring/added": torch.zeros(classes, dtype=torch.int64, device=backbone.device),
        }

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W); the logits are the logarithms of the votes (N, K)."""
        output, _, votes = self._answer(backbone, state, x)
        return output._replace(logits=log_probabilities(votes))

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Answer `x` (N, C, H, W) and remember its confident rows."""
        output, features, votes = self._answer(backbone, state, x)
        scores = votes if self.confidence == "vote" else votes.softmax(1)
        confidence, labels = scores.max(1)
        chosen = (confidence >= self.threshold) & features.isfinite().all(1)
        kept, accepted = accept(state, _remember(state, features, labels, chosen), chosen.any())
        return Step(
            kept, output._replace(logits=log_probabilities(votes)), {"accepted": accepted, "selected": chosen.sum()}
        )

    def _answer(self, backbone: Backbone, state: State, x: Tensor) -> tuple[Output, Tensor, Tensor]:
        """Return the output, its features as they are remembered (N, D), and the votes (N, K)."""
        output = backbone.forward(x)._replace(moments={})
        features = normalize(output.features.to(state["source/features"].dtype))
        return output, features, self._vote(state, features)

    def _vote(self, state: State, features: Tensor) -> Tensor:
        ring = state["ring/features"]
        classes, share, _ = ring.shape
        rows = torch.cat([state["source/features"], ring.flatten(0, 1)])
        own = torch.arange(classes, device=ring.device).repeat_interleave(share)
        labels = torch.cat([state["source/labels"], own])
        filled = torch.arange(share, device=ring.device)[None] < state["ring/added"][:, None]
        used = torch.cat([torch.ones_like(state["source/labels"], dtype=torch.bool), filled.flatten()])
        cosines = torch.where(used, features @ rows.T, -torch.inf)
        nearest, index = cosines.topk(min(self.neighbours, len(rows)), dim=1)
        weights = (nearest / self.temperature).softmax(1)
        votes = (weights[:, :, None] * one_hot(labels[index], classes)).sum(1)
        return (votes + 1e-5).clamp(max=1)


def _remember(state: State, features: Tensor, labels: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """Write the chosen rows over the oldest of their classes; of more than a ring holds, the last ones stay."""
    ring, added = state["ring/features"], state["ring/added"]
    classes, share, width = ring.shape
    counts = one_hot(labels, classes) * chosen[:, None]
    before = (counts.cumsum(0) - counts).gather(1, labels[:, None])[:, 0]
    total = counts.sum(0)
    written = chosen & (before >= total[labels] - share)
    slot = labels * share + (added[labels] + before) % share
    # Rows that are not written go to one slot too many, which is cut off again.
    slot = torch.where(written, slot, classes * share)
    spare = torch.cat([ring.flatten(0, 1), ring.new_zeros(1, width)])
    flat = spare.index_put((slot,), torch.where(written[:, None], features, 0.0))
    return {"ring/features": flat[:-1].reshape(ring.shape), "ring/added": added + total}
