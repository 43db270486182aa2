"""The guard: decides for every window whether it may be learnt from, and for every step whether it is taken over.

What is compared with the frozen model is what the stream answers, with the statistics that it keeps, and not what the
step made of the window: the two differ most where harm is done. In order of trust: finite numbers; diversity of the
answers; size of the update; trust region; the canary. A stream that stands worse than the frozen model goes on
learning, for what it has seen may be too little or one-sided, but the frozen model answers.
"""

import torch
from torch import Tensor

from tta_server.adapters import Adapter, State, Step
from tta_server.adapters.base import group
from tta_server.guard import referee
from tta_server.guard.canary import Canary, CanaryImages, CanaryReading, obstacle
from tta_server.guard.compare import Compare
from tta_server.guard.halves import determined
from tta_server.guard.ranges import unsound
from tta_server.guard.record import Record
from tta_server.guard.referee import Referee
from tta_server.guard.trust import Trust
from tta_server.guard.variety import distinct, enough
from tta_server.guard.verdict import Admission, Finding, Memory, Serve, Verdict
from tta_server.models import Backbone, Output, Reference
from tta_server.settings import GuardSettings
from tta_server.telemetry.closed_sets import Action, Cause

_PROBE = 8  # images of a step that is taken to see where it leads


class Guard:
    """Judge the streams of one adapter on one backbone; what is known of a stream is in its memory alone."""

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter,
        reference: Reference | None,
        settings: GuardSettings,
        canary: CanaryImages | None = None,
    ) -> None:
        """Prepare everything that does not depend on a stream.

        Args:
            backbone: The frozen network.
            adapter: Whose steps are judged.
            reference: The model's bundle; without one, only numbers, distances and diversity are judged.
            settings: What is let pass.
            canary: The bundle's, if others have it too; its own when None.
        """
        self._settings = settings
        self._backbone = backbone
        self._adapter = adapter
        self._classes = backbone.spec.classes
        initial = adapter.init(backbone, reference)
        self._trust = Trust(adapter, backbone, initial)
        known = reference is not None and reference.parts >= referee.PARTS
        self._by_statistics = bool(group(initial, "stats"))
        self._compare = Compare(settings, Referee(reference) if reference and known else None, self._determined)
        self._probe = _probe(backbone, reference)
        self._no_canary = obstacle(adapter, initial, reference)
        self._canary: Canary | None = None
        if reference is not None and not self._no_canary:
            shown = canary or CanaryImages(reference, backbone.device)
            self._canary = Canary(backbone, adapter.alone(), shown, initial)

    def start(self) -> Memory:
        """Return what is remembered of a fresh stream; its layout never changes."""
        return Record.fresh(self._classes).memory()

    def admit(self, memory: Memory, x: Tensor, frozen: Output) -> Admission:
        """Decide whether a window may be learnt from.

        Args:
            memory: Of the stream.
            x: The window (N, C, H, W).
            frozen: What the source model says of it.
        """
        record = Record.of(memory)
        if not (bool(x.isfinite().all()) and _finite(frozen)):
            reason = "the window, or what the frozen model says of it, is not finite"
            return Admission(False, "not_finite", reason, memory, _serve(record))
        pictures, needed = distinct(x), enough(len(x))
        if pictures < needed:
            reason = f"the window shows {pictures} different pictures, expected at least {needed} of {len(x)} images"
            return Admission(False, "too_few_pictures", reason, memory, _serve(record))
        return Admission(True, "healthy", "the window may be learnt from", memory, _serve(record))

    def weigh(self, memory: Memory, x: Tensor, frozen: Output, answered: Output) -> tuple[Memory, Serve]:
        """Say who answers before the first step, anew for each set of images; see `Judge.weigh`.

        The frozen model does where a stream shows few pictures again and again: their statistics say little of others.
        """
        record = self._compare.begin(Record.of(memory), x, answered, frozen)
        if distinct(x) < min(len(x), enough(len(x))):
            record = record.but(source=True)
        return record.memory(), _serve(record)

    def look(self, memory: Memory, x: Tensor, frozen: Output, answered: Output) -> Admission:
        """Say who answers from now on, by images that are not learnt from; see `Judge.look`."""
        record = Record.of(memory)
        if _finite(frozen, answered) and record.steps:
            record = self._compare.look(record, x, answered, frozen, fair=False)
        elif _finite(frozen, answered):
            record = Record.of(self.weigh(memory, x, frozen, answered)[0])
        cause: Cause = "contradicted" if record.source else "healthy"
        reason = _standing(record) if record.source else "nothing is wrong with what the stream answers"
        return Admission(False, cause, f"{reason}; nothing was learnt", record.memory(), _serve(record))

    def judge(self, memory: Memory, old: State, step: Step, x: Tensor, frozen: Output, answered: Output) -> Verdict:
        """Decide what becomes of a step.

        Args:
            memory: What `admit` returned.
            old: The state before.
            step: What the adapter made of the window.
            x: The window (N, C, H, W).
            frozen: What the source model says of it.
            answered: What the stream answers to it: `old`, with the statistics that it keeps.
        """
        record = Record.of(memory)
        if not _finite(answered):
            reason = "what the stream answers to the window is not finite"
            return _refused(Finding(_restore(record), "not_finite", reason), old, record, {})
        record = self._compare.look(record, x, answered, frozen)
        measures = self._compare.measures(record)
        if wrong := self._harmful(record) or _broken(step):
            return _refused(wrong, old, record, measures)
        update = self._trust.update(old, step.state)
        measures["update_norm"] = update
        if update > self._settings.max_update:
            reason = f"the step moves the parameters by {update:.2g}, more than {self._settings.max_update:.2g}"
            return _refused(Finding("reject", "update", reason), old, record, measures)
        return self._examine(record, old, step, measures)

    def vet(self, state: State, initial: State, closely: bool = True) -> Finding | None:
        """Judge a state that comes from a file as if a step had made it.

        Args:
            state: Laid out as the adapter's states are.
            initial: The state that a stream starts from.
            closely: Whether the canary is read, and a step taken to see how far it leads; else only ranges and the
                trust region are looked at.
        """
        if wrong := unsound(state, initial):
            return wrong
        distance, most = self._trust.distance(state), self._settings.max_distance
        if distance > most:
            reason = f"its parameters are {distance:.2g} from the source's, more than {most:.2g}"
            return Finding("reject", "trust_region", reason)
        return (self._vet_reading(state) or self._vet_step(state)) if closely else None

    def _determined(self, x: Tensor, frozen: Tensor) -> bool:
        return self._by_statistics and determined(self._backbone, x, frozen)

    def _vet_reading(self, state: State) -> Finding | None:
        reading = self._canary.read(state) if self._canary else None
        return self._misread(reading, Record.fresh(self._classes))

    def _vet_step(self, state: State) -> Finding | None:
        """Take a step: whatever an optimiser has gathered must not lead far, or every window is refused."""
        step = self._adapter.adapt(self._backbone, state, self._probe)
        update = self._trust.update(state, step.state)
        if update > self._settings.max_update:
            reason = (
                f"its next step would move the parameters by {update:.2g}, more than {self._settings.max_update:.2g}"
            )
            return Finding("reject", "update", reason)
        return None

    def _examine(self, record: Record, old: State, step: Step, measures: dict[str, float]) -> Verdict:
        """Judge a step that is sound and small by what its state, drawn into the trust region, reads."""
        state = self._trust.project(step.state, self._settings.max_distance)
        measures["parameter_distance"] = self._trust.distance(state)
        moved = record.but(since_check=record.since_check + 1, path=record.path + measures["update_norm"])
        reading = self._canary.read(state) if self._canary and self._due(moved) else None
        if reading:
            measures["canary_accuracy"] = reading.accuracy
            moved = moved.but(since_check=0, path=0.0)
        if wrong := self._misread(reading, record):
            return _refused(wrong, old, record, measures)
        return self._commit(moved, state, step, reading, measures)

    def _commit(
        self, record: Record, state: State, step: Step, reading: CanaryReading | None, measures: dict[str, float]
    ) -> Verdict:
        passed = self._passes(record, reading)
        if passed:
            record = record.but(failures=0, since_check=0, path=0.0)
        record = record.but(steps=record.steps + 1)
        cause: Cause = "healthy"
        reason = "nothing is wrong with the step"
        if record.source:
            cause, reason = "contradicted", _standing(record)
        elif state is not step.state:
            cause = "trust_region"
            reason = f"the parameters are drawn back to {self._settings.max_distance:.2g} from the source"
        return Verdict("commit", cause, reason, state, record.memory(), _serve(record), passed, measures)

    def _due(self, record: Record) -> bool:
        return record.since_check >= self._settings.canary_every or record.path >= self._settings.canary_path

    def _passes(self, record: Record, reading: CanaryReading | None) -> bool:
        """Say whether the check was complete and found nothing, so that the state may be gone back to."""
        if record.failures and record.steps < self._settings.canary_every:
            return False  # a stream that was taken back reads well at first, and may collapse again as it did before
        if self._canary:
            return reading is not None and reading.drop <= self._settings.canary_margin
        return self._due(record)

    def _harmful(self, record: Record) -> Finding | None:
        """Return why what the stream has learnt must be taken back; where nothing is learnt, nothing can be."""
        if not record.steps:
            return None
        cause, reason = self._compare.uniform(record)
        return Finding(_restore(record), cause, reason) if reason else None

    def _misread(self, reading: CanaryReading | None, record: Record) -> Finding | None:
        if reading is None or reading.drop <= self._settings.canary_margin + 2 * reading.error:
            return None
        reason = f"of the canary {reading.accuracy:.1%} is read, and {reading.source:.1%} by the source"
        return Finding(_restore(record), "canary", reason)


def _probe(backbone: Backbone, reference: Reference | None) -> Tensor:
    """Return images that a step is taken on to see where it leads: the canary's, else noise."""
    if reference is not None and "canary" in reference.parts:
        x = reference.part("canary")["images"][:_PROBE].cpu().float() / 255
    else:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(_PROBE, *backbone.spec.input_shape, generator=generator)
    return x.to(backbone.device)


def _finite(*outputs: Output) -> bool:
    return all(bool(each.logits.isfinite().all() & each.features.isfinite().all()) for each in outputs)


def _broken(step: Step) -> Finding | None:
    tensors = (step.output.logits, *(tensor for tensor in step.state.values() if tensor.is_floating_point()))
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        return Finding("reject", "not_finite", "the step, or what the adapted model says of the window, is not finite")
    if not bool(step.scalars["accepted"]):
        return Finding("reject", "nothing_selected", "the adapter found nothing in the window to learn from")
    return None


def _refused(wrong: Finding, old: State, record: Record, measures: dict[str, float]) -> Verdict:
    record = record if wrong.action == "reject" else record.restored()
    return Verdict(*wrong, old, record.memory(), _serve(record), measures=measures)


def _restore(record: Record) -> Action:
    """Return how far to take a stream back: further if the last time did not help."""
    return "reset" if record.failures else "rollback"


def _standing(record: Record) -> str:
    how_long = "" if record.stream_score < record.frozen_score else " until a gain shows"
    return (
        f"the frozen model answers{how_long}: where both differ, its answers have lately been credible on "
        f"{record.frozen_score:.0f} images and the stream's on {record.stream_score:.0f}"
    )


def _serve(record: Record) -> Serve:
    return "source" if record.source else "adapted"
