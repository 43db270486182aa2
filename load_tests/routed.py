"""A stream that keeps a state for each domain, and answers every image by the domain whose style it has: a prototype.

The source never learns, and answers what looks like it. A learnt domain's statistics are those of what it has seen,
the source standing for a few images; they begin with its first request. Gradient steps come by windows of its images.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tta_server import adapters
from tta_server.adapters import State
from tta_server.adapters.base import group
from tta_server.domains.place import Place
from tta_server.domains.route import NEW, follow, is_few, route
from tta_server.domains.space import StyleSpace
from tta_server.models import Backbone, Tensors

_PRIOR_IMAGES = 4  # that the source's statistics are worth
_LEAST_SHARE = 0.1  # of a window in a domain's statistics
_RECENT = 8  # images that requests of few are judged together with
_MOST_DOMAINS = 16


@dataclass(eq=False)
class Domain:
    """What a stream has learnt of one kind of input.

    Attributes:
        place: Where it lies.
        state: Scales, shifts and the optimiser's slots.
        stats: Means and variances.
        images: How many the statistics are of, while no step was taken.
        steps: Steps taken.
        asked: When it was last asked.
        waiting: Images that wait to be learnt from.
    """

    place: Place
    state: State
    stats: Tensors
    images: int = 0
    steps: int = 0
    asked: int = 0
    waiting: list[Tensor] = field(default_factory=list)


class Routed:
    """One stream of TENT with a state for each domain."""

    def __init__(self, backbone: Backbone, space: StyleSpace, lr: float, window: int) -> None:
        """Begin at home."""
        self.domains: list[Domain] = []
        self._backbone = backbone
        self._space = space
        self._window = window
        self._adapter = adapters.create("tent", lr=lr, stats="batch")
        self._home = Place.source(len(space.mean), space.images)
        self._recent = torch.zeros(0, len(space.mean), dtype=torch.float64)
        self._current = 0
        self._asked = 0

    def answer(self, x: Tensor) -> Tensor:
        """Answer one request (N, C, H, W), and learn from the windows that it fills; returns logits (N, K)."""
        self._asked += 1
        styles, output = self._space.styles(self._backbone, x)
        assert output is not None
        logits = output.logits.clone()
        self._recent = torch.cat([self._recent, styles])[-_RECENT:]
        places = self._where(styles)
        for index in sorted(set(places) - {0}):
            own = torch.tensor([place == index for place in places])
            logits[own] = self._answer(self.domains[index - 1], x[own])
        self._current = places[-1]
        for domain in self.domains:
            self._learn(domain)
        return logits

    def _where(self, styles: Tensor) -> list[int]:
        places = [self._home, *(domain.place for domain in self.domains)]
        if is_few(len(styles)):
            found = [follow(places, self._recent, self._current, self._space.limit)] * len(styles)
        else:
            found = route(places, styles, self._space.limit)
        for index in set(found) - {0, NEW}:
            own = torch.tensor([place == index for place in found])
            self.domains[index - 1].place = self.domains[index - 1].place.seen(styles[own])
        if NEW not in found:
            return found
        if len(self.domains) == _MOST_DOMAINS:
            oldest = min(range(len(self.domains)), key=lambda i: self.domains[i].asked)
            if oldest + 1 in found:
                return [max(place, 0) for place in found]
            del self.domains[oldest]
            found = [place - 1 if place > oldest else place for place in found]
        new = torch.tensor([place == NEW for place in found])
        first = self._recent if is_few(len(styles)) else styles[new]
        self.domains.append(
            Domain(Place.first(first), self._adapter.init(self._backbone), dict(self._backbone.norm_stats()))
        )
        return [len(self.domains) if place == NEW else place for place in found]

    def _answer(self, domain: Domain, x: Tensor) -> Tensor:
        domain.asked = self._asked
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
