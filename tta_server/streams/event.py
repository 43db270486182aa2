"""What happens to a stream: one value, told once, after it has happened, to everyone who listens."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from tta_server.adapters import Step
from tta_server.guard.verdict import Verdict
from tta_server.names import is_domain
from tta_server.storage.audit import EVENTS, Event, now
from tta_server.streams.lesson import Lesson
from tta_server.streams.stream import Standing, Stream
from tta_server.telemetry.closed_sets import DomainOutcome, DropReason, RestoreCause, WindowOutcome

log = logging.getLogger(__name__)

EVERY: Final = "*"  # no stream can have this name

EventKind = Event | Literal["answered", "offered", "shed", "calm", "recall", "scored", "weighed"]
"""An event of the audit log; or, too many for it: images were answered, offered for learning, dropped for lack of time
or of drift; a stream came back to a domain that it knows; a window of its images was scored; the guard has looked at
what is answered to images that no window takes."""


class Words(NamedTuple):
    """What one kind of event is called elsewhere, and what is done about it.

    Attributes:
        window: What became of the window that it is about, if it is about one.
        dropped: Why the images of that window were not learnt from; None if they were.
        restored: Whether the stream was taken back.
        saved: Whether the stream is written: always, never, or if its state or who answers is another than before.
        domain: What happened to a domain of the stream, if it is about that.
        fresh: Whether nothing that was measured of the stream holds any more.
        level: How loud the server's log says it; 0 is not at all.
    """

    window: WindowOutcome | None = None
    dropped: DropReason | None = None
    restored: bool = False
    saved: Literal["always", "moved", "never"] = "moved"
    domain: DomainOutcome | None = None
    fresh: bool = False
    level: int = logging.DEBUG


WORDS: Final[Mapping[EventKind, Words]] = {
    "create": Words(saved="always"),
    "load": Words(saved="never"),
    "open": Words(saved="always", domain="opened", level=logging.INFO),
    "begin": Words(),
    "merge": Words(saved="always", domain="merged", level=logging.INFO),
    "forget": Words(saved="always", domain="forgotten", level=logging.INFO),
    "recall": Words(saved="never", domain="recalled"),
    "rename": Words(saved="always", level=logging.INFO),
    "offer": Words(saved="never", level=logging.INFO),
    "commit": Words("updated"),
    "reject": Words("rejected", "rejected"),
    "skip": Words("skipped", "skipped"),
    "failed": Words("failed", "failed", level=0),
    "rollback": Words("restored", "rejected", restored=True, level=logging.INFO),
    "reset": Words("restored", "rejected", restored=True, saved="always", fresh=True, level=logging.INFO),
    "snapshot": Words(saved="always", level=logging.INFO),
    "restore": Words(restored=True, level=logging.INFO),
    "import": Words(restored=True, level=logging.INFO),
    "delete": Words(saved="never", level=logging.INFO),
    "mode": Words(saved="always", level=logging.INFO),
    "freeze": Words(saved="always", level=logging.ERROR),
    "settings": Words(saved="always", level=logging.INFO),
    "drift": Words(saved="never", level=logging.INFO),
    "calibrate": Words(saved="never", level=logging.INFO),
    "aside": Words(saved="never", level=0),
    "scored": Words(saved="never", level=0),
    "answered": Words(saved="never", level=0),
    "offered": Words(saved="never", level=0),
    "shed": Words("dropped", "overload", saved="never"),
    "calm": Words("skipped", "calm", saved="never", level=0),
    "weighed": Words(saved="never", level=0),
}
"""Every kind of event; the one place that knows what it is called in the metrics, in the books and in the log.

What sets a stream aside, and a step that fails, are logged where they are caught, with how they came about.
"""


@dataclass(frozen=True, eq=False)
class StreamEvent:
    """What happened to one stream.

    Attributes:
        stream: Its name; `EVERY` if all were switched at once.
        kind: What happened.
        before: Where the stream stood before.
        after: Where it stands now.
        subject: The stream itself, if it is in memory.
        cause: Why, from the guard's closed set or what an operator's command and a periodic reset are called; or empty.
        reason: The same in a sentence.
        who: "engine", or what the API calls the caller.
        lesson: The window that it is about, if a step was tried.
        step: What the adapter made of the window, if a step was taken.
        verdict: What the guard said of the step.
        error: What a step raised.
        rows: Images of the window that it is about, or that were answered or offered; 0 if it is about none.
        lost: Images that are not learnt from, by reason, beside those.
        measures: Numbers that the guard looked at, by name.
        extra: What only this event has; for the audit log.
        digest: Of the stream's state, where it is not in memory; None if that is not known.
        time: ISO 8601 in UTC.
        request_id: What the request is called that it came with; empty if it came with none.
    """

    stream: str
    kind: EventKind
    before: Standing
    after: Standing
    subject: Stream | None = None
    cause: RestoreCause | Literal[""] = ""
    reason: str = ""
    who: str = "engine"
    lesson: Lesson | None = None
    step: Step | None = None
    verdict: Verdict | None = None
    error: Exception | None = None
    rows: int = 0
    lost: Mapping[DropReason, int] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = None
    time: str = field(default_factory=now)
    request_id: str = ""

    @property
    def words(self) -> Words:
        """What it is called elsewhere."""
        return WORDS[self.kind]

    @property
    def redirected(self) -> bool:
        """Whether an operator had the stream go on from another state: labels of what it answered say nothing of it."""
        return self.cause == "operator" and self.words.restored

    @property
    def dropped(self) -> dict[DropReason, int]:
        """Images that were offered for learning and are not learnt from, by reason."""
        found = dict(self.lost)
        if self.rows and self.words.dropped:
            found[self.words.dropped] = self.rows
        return found

    @property
    def logged(self) -> Event | None:
        """What the audit log calls it; None if it is not in there."""
        return _LOGGED.get(self.kind)

    @property
    def saves(self) -> bool:
        """Whether the stream has to be written."""
        saved = self.words.saved
        return saved == "always" or (saved == "moved" and self.before != self.after)


_LOGGED: Final[Mapping[str, Event]] = {event: event for event in EVENTS}

Tell = Callable[[StreamEvent], None]


class News:
    """Tell everyone who listens of each event, in the order in which they began to."""

    def __init__(self, *listeners: Tell) -> None:
        """Take those who listen from the start."""
        self._listeners = list(listeners)
        self._failed: Callable[[str, Exception], None] | None = None

    def listen(self, listener: Tell) -> None:
        """Tell one more from now on."""
        self._listeners.append(listener)

    def on_failure(self, failed: Callable[[str, Exception], None]) -> None:
        """Say who hears of a stream in memory whose event somebody could not take in; else it is only logged."""
        self._failed = failed

    def tell(self, event: StreamEvent) -> None:
        """Tell everyone; what fails in one of them keeps no other from hearing it, and is not raised here."""
        wrong: Exception | None = None
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as error:
                log.exception("event '%s' of stream '%s' was not taken in", event.kind, event.stream)
                wrong = error
        if wrong and self._failed and event.subject:
            self._failed(event.stream, wrong)


def keep_books(event: StreamEvent) -> None:
    """Write into the stream's own books: images that were dropped, and the last verdicts; a domain's into both."""
    stream = event.subject
    while stream is not None:
        stream.dropped.update(event.dropped)
        if event.logged and event.kind != "drift":  # what the input does is nobody's verdict
            stream.verdicts.append(_verdict(event))
        stream = stream.parent
    if event.subject and event.subject.parent:
        event.subject.parent.version += event.after.version - event.before.version
        event.subject.parent.learnt += event.rows if event.kind == "commit" else 0


def _verdict(event: StreamEvent) -> dict[str, Any]:
    return {
        "time": event.time,
        "domain": event.stream if is_domain(event.stream) else "",
        "verdict": event.kind,
        "cause": event.cause,
        "reason": event.reason,
        "who": event.who,
        "version_before": event.before.version,
        "version_after": event.after.version,
    }
