"""A stream that keeps a state for each domain, and answers every image by the domain whose style it has: a prototype.

The source never learns, and answers what looks like it. A learnt domain's statistics are those of what it has seen,
the source standing for a few images; they begin with its first request. Gradient steps come by windows of its images.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from load_tests.routing import SOURCE, Routing
from tta_server import adapters
from tta_server.adapters import State
from tta_server.adapters.base import group
from tta_server.domains.space import StyleSpace
from tta_server.models import Backbone, Tensors

_PRIOR_IMAGES = 4  # that the source's statistics are worth
_LEAST_SHARE = 0.1  # of a window in a domain's statistics
_MOST_DOMAINS = 16


@dataclass(eq=False)
class Domain:
    """What a stream has learnt of one kind of input.

    Attributes:
        state: Scales, shifts and the optimiser's slots.
        stats: Means and variances.
        images: How many the statistics are of, while no step was taken.
        steps: Steps taken.
        waiting: Images that wait to be learnt from.
    """

    state: State
    stats: Tensors
    images: int = 0
    steps: int = 0
    waiting: list[Tensor] = field(default_factory=list)


class Routed:
    """One stream of TENT with a state for each domain."""

    def __init__(self, backbone: Backbone, space: StyleSpace, lr: float, window: int) -> None:
        """Begin at home."""
        self.routing = Routing(space, _MOST_DOMAINS)
        self._domains: dict[int, Domain] = {}
        self._backbone = backbone
        self._space = space
        self._window = window
        self._adapter = adapters.create("tent", lr=lr, stats="batch")

    def answer(self, x: Tensor) -> Tensor:
        """Answer one request (N, C, H, W), and learn from the windows that it fills; returns logits (N, K)."""
        styles, output = self._space.styles(self._backbone, x)
        assert output is not None
        logits = output.logits.clone()
        found = self.routing.where(styles)
        for number in self._domains.keys() - self.routing.asked.keys():
            del self._domains[number]
        for number in sorted(set(found) - {SOURCE}):
            own = torch.tensor([each == number for each in found])
            logits[own] = self._answer(self._domain(number), x[own])
        for domain in self._domains.values():
            self._learn(domain)
        while pair := self.routing.merge():
            stays, joins = pair
            self._domains[stays].waiting += self._domains.pop(joins).waiting
        return logits

    def _domain(self, number: int) -> Domain:
        if number not in self._domains:
            self._domains[number] = Domain(self._adapter.init(self._backbone), dict(self._backbone.norm_stats()))
        return self._domains[number]

    def _answer(self, domain: Domain, x: Tensor) -> Tensor:
        domain.waiting.extend(x)
        theta = group(domain.state, "theta")
        if domain.steps:
            return self._backbone.forward(x, theta | domain.stats).logits
        share = len(x) / (_PRIOR_IMAGES + domain.images + len(x))
        output = self._backbone.forward(x, theta | domain.stats, share)
        domain.stats = _mixed(domain.stats, output.moments, share)
        domain.images += len(x)
        return output.logits

    def _learn(self, domain: Domain) -> None:
        if len(domain.waiting) < self._window:
            return
        x = torch.stack(domain.waiting[: self._window])
        del domain.waiting[: self._window]
        step = self._adapter.adapt(self._backbone, domain.state, x)
        domain.state = step.state
        domain.steps += 1
        if domain.steps == 1:  # measured behind one another, as those of single requests were not
            source = self._backbone.norm_stats()
            domain.stats = _mixed(source, step.output.moments, self._window / (self._window + _PRIOR_IMAGES))
        else:
            domain.stats = _mixed(domain.stats, step.output.moments, max(1 / domain.steps, _LEAST_SHARE))


def _mixed(stats: Tensors, moments: Tensors, share: float) -> dict[str, Tensor]:
    """Return means and variances of images of which `share` have the moments; by the law of total variance."""
    mixed = {}
    for mean in (name for name in stats if name.endswith(".running_mean")):
        var = f"{mean.removesuffix('mean')}var"
        between = share * (1 - share) * (moments[mean] - stats[mean]).square()
        mixed[mean] = torch.lerp(stats[mean], moments[mean], share)
        mixed[var] = torch.lerp(stats[var], moments[var], share) + between
    return mixed
