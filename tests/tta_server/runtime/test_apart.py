"""Networks that mix the rows of a batch: each stream gets what it would get alone, stacked or not."""

import numpy as np
import pytest

from tests.models.odd import MIXING, SHAPE, Plain, drawn
from tests.tta_server.runtime.fakes import Wired, learn_all, queued, rows, wired
from tta_server import adapters
from tta_server.models import TorchBackbone

# Of probabilities; where logits differ by 1e-5 of their scale, these differ by less.
TOLERANCE = 1e-5

LOOKS = {"day": lambda x: x, "night": lambda x: x // 4, "fog": lambda x: 255 - x // 4, "off": lambda x: x // 2}


def served(kind: type, method: str) -> Wired:
    settings = {"lr": 0.05} if method == "tent" else {}
    backbone = TorchBackbone(drawn(kind), SHAPE)
    named = {"off": {"mode": "off"}}
    return wired(adapters.create(method, **settings), 4, backbone, engine={"stack_rows": 64}, named=named)


def asked(subject: Wired, names: list[str], seed: int) -> dict[str, np.ndarray]:
    """Ask for all streams at once, as requests that wait together are, and learn."""
    # Streams must not be of one size, nor a multiple of it.
    counts = {"day": 4, "night": 4, "fog": 4, "off": 3}
    jobs = [queued(name, LOOKS[name](rows(counts[name], seed + len(name))), 0.0) for name in names]
    groups: dict[object, list] = {}
    for job in jobs:
        groups.setdefault(subject.worker.grouping()(job), []).append(job)
    for group in groups.values():
        subject.worker.answer(group)
    learn_all(subject)
    return {job.stream: job.future.result(0).probabilities for job in jobs}


@pytest.mark.parametrize("method", ["tent", "bn"])
@pytest.mark.parametrize("kind", [Plain, *MIXING])
def test_streams_beside_others_answer_as_each_does_alone(kind, method):
    together = served(kind, method)
    alone = {name: served(kind, method) for name in LOOKS}

    for seed in range(3):
        answers = asked(together, list(LOOKS), seed)
        for name, subject in alone.items():
            expected = asked(subject, [name], seed)[name]
            assert np.abs(answers[name] - expected).max() <= TOLERANCE, (name, seed)
    assert all(together.steps()[name] == 3 for name in ("day", "night", "fog"))


def test_a_network_that_keeps_rows_apart_is_still_stacked():
    assert served(Plain, "tent").worker.parts.answerer.sharing.stack_rows == 64


def test_requests_share_no_forward_where_rows_are_not_apart():
    subject = served(MIXING[-1], "tent")

    jobs = [queued("off", rows(1), 0.0) for _ in range(3)]

    assert len({subject.worker.grouping()(job) for job in jobs}) == 3
