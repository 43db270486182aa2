"""What a worker is made of."""

from dataclasses import dataclass

from tta_server.models import Backbone
from tta_server.runtime.work.answerer import Answerer
from tta_server.runtime.work.learner import Learner
from tta_server.runtime.work.router import Router
from tta_server.runtime.work.watcher import Watcher
from tta_server.streams.event import News
from tta_server.streams.ledger import Ledger
from tta_server.streams.methods import Methods
from tta_server.streams.newcomers import Newcomers
from tta_server.streams.registry import Registry
from tta_server.telemetry.metrics import Metrics


@dataclass(frozen=True)
class Parts:
    """The parts of a worker; `assemble` makes them.

    Attributes:
        learns: The network, as torch runs it; steps run a twin of it, if they have a thread.
        answers: The network, as answers run it.
        methods: How streams learn.
        registry: The streams.
        newcomers: Those that have not learnt yet.
        answerer: Runs forwards.
        learner: Takes steps.
        router: Tells domains apart; None if nobody does.
        ledger: Remembers answers until labels come.
        news: Is told what happens to streams.
        watcher: Watches the drift of streams.
        metrics: Where times are reported.
    """

    learns: Backbone
    answers: Backbone
    methods: Methods
    registry: Registry
    newcomers: Newcomers
    answerer: Answerer
    learner: Learner
    router: Router | None
    ledger: Ledger
    news: News
    watcher: Watcher
    metrics: Metrics
