"""AdaNPC: classify by the nearest remembered features, and remember what was classified with confidence.

Source: Zhang et al., ICML 2023, arXiv:2304.12566, section 3. Reference: AdaNPC/domainbed/adapt_algorithms.py.
Differs: new rows go into one preallocated ring per class, so memory is bounded and balanced; no random first row; the
confidence of a vote is the vote ("reference" is the authors' softmax of it, which is at most e/(e + K - 1), so that
their threshold keeps all or nothing).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tta_server.adapters.base import State, Step, accept, register
from tta_server.adapters.losses import one_hot
from tta_server.models import Backbone, Output, Reference


@register
@dataclass(frozen=True)
class AdaNPC:
    """Vote among the k nearest rows of a memory of source features and of the stream's own.

    Attributes:
        neighbours: Rows that vote, >= 1; fewer vote while the memory holds fewer.
        temperature: Of the softmax over their cosines, > 0.
        confidence: Which confidence `threshold` is compared with: "vote" or "reference".
        threshold: Least confidence of a vote that is remembered; 0 remembers every one.
        capacity: Rows of the stream's own kept, over all classes; each class has an equal share, at least 1.
    """

    neighbours: int = 10
    temperature: float = 0.1
    confidence: Literal["vote", "reference"] = "vote"
    threshold: float = 0.9
    capacity: int = 2048

    name: ClassVar[str] = "adanpc"
    requires: ClassVar[frozenset[str]] = frozenset({"reference.memory"})
    output_kind: ClassVar[str] = "probabilities"
    stackable: ClassVar[bool] = True
    batch_coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.capacity < 1:
            raise ValueError(f"neighbours and capacity must be >= 1, got {self.neighbours} and {self.capacity}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")
        if self.confidence not in ("vote", "reference"):
            raise ValueError(f"confidence must be 'vote' or 'reference', got '{self.confidence}'")

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return the source rows of the bundle and empty rings.

        Raises:
            ValueError: If there is no bundle, or it has no memory.
        """
        if reference is None:
            raise ValueError("adapter 'adanpc' needs a reference bundle; make it with 'tta-server calibrate'")
        source, classes = reference.part("memory"), backbone.spec.classes
        features = normalize(source["features"].to(backbone.device))
        share = max(self.capacity // classes, 1)
        return {
            "source/features": features,
            "source/labels": source["labels"].to(backbone.device),
            "ring/features": features.new_zeros(classes, share, features.shape[1]),
            "ring/added": torch.zeros(classes, dtype=torch.int64, device=backbone.device),
        }

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W); `logits` of the output are the votes (N, K)."""
        output = backbone.forward(x)
        return output._replace(logits=self._vote(state, normalize(output.features)), moments={})

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Answer `x` (N, C, H, W) and remember its confident rows."""
        output = self.predict(backbone, state, x)
        votes = output.logits
        scores = votes if self.confidence == "vote" else votes.softmax(1)
        confidence, labels = scores.max(1)
        features = normalize(output.features)
        chosen = (confidence >= self.threshold) & features.isfinite().all(1)
        kept, accepted = accept(state, _remember(state, features, labels, chosen), chosen.any())
        return Step(kept, output, {"accepted": accepted, "selected": chosen.sum()})

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
