"""A stream of input: the only mutable object, touched by the device thread alone."""

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tta_server.adapters import Adapter, State
from tta_server.adapters.checkpoint import plain_settings
from tta_server.domains.place import Place
from tta_server.drift.watch import Watch
from tta_server.guard.judge import Judge, Unguarded
from tta_server.guard.record import estimated_gain
from tta_server.guard.verdict import Memory, Serve
from tta_server.models.backbone import EMPTY, size_bytes
from tta_server.settings import AdapterSettings, Mode
from tta_server.streams.history import History, Kept
from tta_server.streams.lately import Lately
from tta_server.streams.present import Present, as_source, present, source_because
from tta_server.streams.strange import StrangeImage
from tta_server.streams.summary import Summary
from tta_server.streams.whereabouts import Whereabouts
from tta_server.streams.window import Window
from tta_server.telemetry.closed_sets import StateKind

_RECENT_IMAGES = 256
_RECENT_VERDICTS = 20


@dataclass(frozen=True, eq=False)
class Method:
    """How a stream learns; shared by all streams with the same settings.

    Attributes:
        adapter: The adapter.
        initial: The state that answers as the source model does; shared, for a state is a value.
        guard: Who judges its steps.
        section: The settings as they were given, if they are a stream's own; None for the server's.
    """

    adapter: Adapter
    initial: State
    guard: Judge
    section: AdapterSettings | None = None

    @property
    def described(self) -> dict[str, Any]:
        """The adapter and all its settings, as the audit log has them."""
        return {"adapter": self.adapter.name, "settings": plain_settings(self.adapter)}


class Answering(NamedTuple):
    """Who answers a stream's requests, and how; also of one that does not exist yet.

    Attributes:
        mode: Whether and when it learns.
        as_source: Whether the frozen model answers.
        method: How it learns.
        routed: Whether its images must be told apart before it is known who answers.
    """

    mode: Mode
    as_source: bool
    method: Method
    routed: bool = False


class Standing(NamedTuple):
    """Where a stream stands; what is written of it is written anew when this changes.

    Attributes:
        version: Version of its state.
        serve: Whether its own state or the source answers, as the guard wants it.
    """

    version: int
    serve: Serve = "adapted"


@dataclass(eq=False)
class Stream:
    """What the server knows of one stream, or of one domain of a stream.

    A stream that tells domains apart learns nothing itself: it is the source, and each of its domains is a `Stream`
    with a place, which learns from the images that look like it.

    Attributes:
        name: Its name.
        mode: Whether and when it learns.
        method: How it learns.
        state: What it has learnt; replaced, never written to.
        memory: What the guard remembers of it.
        window: Answered images that wait to be learnt from.
        history: Its earlier states.
        version: Grows by one whenever `state` is replaced, by a step or a reset; no two states share one.
        steps: Steps that made `state`, from the source on; 0 is the source model.
        images: Images answered.
        learnt: Images that committed steps learnt from.
        dropped: Images that were offered for learning but not learnt from, by reason.
        serve: Whether its own state or the source answers, as the guard wants it.
        restores: Times in a row that the guard took it back, with no complete check passed in between.
        frozen: Why the guard switched it off; empty if it did not.
        verdicts: The last verdicts, newest last.
        entropy_ratio: Recent mean entropy of the answers over ln K; None before the first.
        confidence: Recent mean probability of the predicted class; None before the first.
        touched_s: When it last answered, on a monotonic clock.
        whereabouts: Where it has been, if it tells domains apart.
        parent: The stream that it is a domain of, if it is one.
        place: Where it lies among styles, if it is a domain.
        title: What an operator calls the domain; may be empty.
        since: When the domain was opened: ISO 8601 in UTC.
        lately: How much of what the stream sees is of this domain; of a stream: how much is at home.
        drift: How its input drifts; of a domain, its stream's says it.
        strange: Its last images that raised the score, newest last, if such are kept; of a domain, its stream has them.
        begun: How many waiting images `state` has the statistics of, before the first step.
        generation: With which this server holds it, where others could take it; 0 where none can.
        again: Last images that were answered and that the window refused for what came before: not learnt from, but the
            guard looks at what is answered to them.
        mode_s: When it, or all streams at once, were given its mode, in seconds of the epoch; 0 if never: then the
            configuration says it, after a restart too.
        noted: How it learnt when the audit log was last told, since it is in memory.
    """

    name: str
    mode: Mode
    method: Method
    state: State
    memory: Memory
    window: Window
    history: History
    version: int = 0
    steps: int = 0
    images: int = 0
    learnt: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    serve: Serve = "adapted"
    restores: int = 0
    frozen: str = ""
    verdicts: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_RECENT_VERDICTS))
    entropy_ratio: float | None = None
    confidence: float | None = None
    touched_s: float = 0.0
    whereabouts: Whereabouts | None = None
    parent: "Stream | None" = None
    place: Place | None = None
    title: str = ""
    since: str = ""
    begun: int = 0
    lately: Lately = field(default_factory=Lately)
    drift: Watch = field(default_factory=Watch)
    strange: tuple[StrangeImage, ...] = ()
    generation: int = 0
    again: Window = field(default_factory=lambda: Window(1, recent=0))
    mode_s: float = 0.0
    noted: Method | None = None
    _counted: tuple[State, int] = field(default=(EMPTY, 0), init=False, repr=False)

    @property
    def standing(self) -> Standing:
        """Where it stands now."""
        return Standing(self.version, self.serve)

    @property
    def answering(self) -> Answering:
        """Who answers its requests now."""
        return Answering(self.mode, self.answers_as_source, self.method, self.tells_apart)

    @property
    def answers_as_source(self) -> bool:
        """Whether the frozen model answers its requests, whatever it has learnt."""
        apart = self.whereabouts is not None
        return as_source(self.mode, source_because(self.mode, self.serve, self.unweighed, apart, self.frozen))

    @property
    def unweighed(self) -> bool:
        """Whether the guard has not weighed anything of it yet; see `unweighed`."""
        return unweighed(self.method, self.place, self.begun, self.steps)

    @property
    def is_to_begin(self) -> bool:
        """Whether it is a domain that learns and that no step was taken in: until then it is begun, again and again."""
        return self.place is not None and self.mode == "after" and not self.steps

    @property
    def is_judged(self) -> bool:
        """Whether a state of its own may answer and a guard says so: one that it has learnt or was begun with."""
        has_own = self.steps > 0 or self.begun > 0
        return self.mode == "after" and has_own and not isinstance(self.method.guard, Unguarded)

    @property
    def tells_apart(self) -> bool:
        """Whether each of its images is looked at to find the domain that it belongs to."""
        return self.whereabouts is not None and self.mode != "off"

    @property
    def adapted(self) -> bool:
        """Whether what answers has seen or learnt something of the input, and is not the source."""
        return (self.steps > 0 or self.state is not self.method.initial) and not self.answers_as_source

    @property
    def gain(self) -> float | None:
        """What the guard estimates that it gains; None if it does not know."""
        return estimated_gain(self.memory)

    @property
    def base(self) -> State:
        """The state that the next step starts from: what was begun with is measured anew on a whole window."""
        return self.state if self.steps else self.method.initial

    @property
    def learns_later(self) -> bool:
        """Whether answered images go into its window."""
        return self.whereabouts is None and self.mode in ("after", "shadow")

    @property
    def bytes(self) -> dict[StateKind, int]:
        """Memory that it takes, by kind; the state that all streams start from is not its own."""
        size = self.state_bytes
        own = 0 if self.state is self.method.initial else size
        kept = size if self.history.find(self.version) else 0
        return {
            "state": own + size_bytes(self.memory) + self._where_bytes + self.drift.bytes,
            "history": self.history.bytes - kept,  # the current state is in there too
            "window": self.window.bytes + self.again.bytes + sum(each.image.nbytes for each in self.strange),
        }

    @property
    def state_bytes(self) -> int:
        """Memory that its state takes; asked with every request, and counted once a state."""
        state, size = self._counted
        if state is not self.state:
            size = size_bytes(self.state)
            self._counted = self.state, size
        return size

    @property
    def _where_bytes(self) -> int:
        place = self.place.centre.nbytes if self.place else 0
        return place + (self.whereabouts.recent.nbytes if self.whereabouts else 0)

    def observe(self, entropy_ratio: float, confidence: float, rows: int) -> None:
        """Fold the mean entropy and confidence of `rows` new answers into the recent ones."""
        self.images += rows
        share = 1.0 if self.entropy_ratio is None else 1 - math.exp(-rows / _RECENT_IMAGES)
        self.entropy_ratio = (self.entropy_ratio or 0.0) * (1 - share) + entropy_ratio * share
        self.confidence = (self.confidence or 0.0) * (1 - share) + confidence * share

    def begin(self, state: State, images: int) -> None:
        """Answer with `state` until the first step: it has the statistics of the first `images` images."""
        if state is not self.state:
            self.go_to(state, 0)
        self.begun = images

    def commit(self, state: State, rows: int, passed: bool) -> None:
        """Take over the state that a step on `rows` images made; `passed` if the complete check found it good."""
        self.state = state
        self.version += 1
        self.steps += 1
        self.learnt += rows
        self.history.add(Kept(self.version, self.steps, state, passed))

    def go_to(self, state: State, steps: int, passed: bool = False) -> None:
        """Take over a state that was not made by a step on the current one, under a new version."""
        self.state = state
        self.version += 1
        self.steps, self.begun = steps, 0
        if steps:
            self.history.add(Kept(self.version, steps, state, passed))

    def restart(self) -> None:
        """Go back to the source: nothing learnt survives, earlier states and what waits to be learnt from do."""
        self.go_to(self.method.initial, 0)

    def reset(self) -> int:
        """Start again from the source: nothing learnt and nothing waiting survives.

        Returns:
            Images that waited; whoever asks tells that they are dropped.
        """
        self.restart()
        self.memory = self.method.guard.start()
        self.serve, self.restores, self.frozen = "adapted", 0, ""
        self.entropy_ratio = self.confidence = None
        self.drift, self.strange = Watch(), ()
        self.again.take(len(self.again))
        return len(self.window.take(len(self.window)))

    def summary(self) -> Summary:
        """Return what lists say of the stream."""
        return Summary(
            name=self.name,
            mode=self.mode,
            adapter=self.method.adapter.name,
            state_version=self.version,
            steps=self.steps,
            **self.present._asdict(),
            images=self.images,
            images_learnt=self.learnt,
            images_dropped=sum(self.dropped.values()),
            images_in_window=len(self.window),
            entropy_ratio=self.entropy_ratio,
            confidence_ratio=self.confidence,
            last_verdict=self.verdicts[-1] if self.verdicts else None,
        )

    @property
    def present(self) -> Present:
        """Who answers its requests where it is in no domain; see `Directory.present`."""
        return present(self.mode, self.serve, self.unweighed, self.whereabouts is not None, self.frozen, self.restores)

    @property
    def domain(self) -> str:
        """The domain that it is in; empty at home, and if it tells none apart now."""
        return self.whereabouts.current if self.whereabouts and self.tells_apart else ""

    def details(self) -> dict[str, Any]:
        """Return what `GET /v1/streams/{name}` says beside the summary."""
        return {
            "dropped": dict(self.dropped),
            "bytes": self.bytes,
            "versions_kept": self.history.versions,
            "verdicts": list(self.verdicts),
        }


def unweighed(method: Method, place: Place | None, begun: int, steps: int) -> bool:
    """Return whether it is a domain of which the guard has weighed nothing: neither a beginning nor a step."""
    return place is not None and not begun and not steps and not isinstance(method.guard, Unguarded)
