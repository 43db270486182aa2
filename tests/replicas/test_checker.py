"""The checker of histories sees what must not be in one."""

import pytest

from tests.replicas.checker import violations


def answer(begun: float, at: float, version: int, probe: float = 0.5, status: int = 200) -> dict:
    about = {"stream": "gate", "status": status, "version": version, "probe": [probe]}
    return {"kind": "answer", "begun": begun, "at": at} | about


GOOD = [answer(0, 1, 7), answer(0.5, 3, 6), answer(2, 4, 7), answer(5, 6, 9, 0.4)]


def test_answers_that_overlap_may_come_in_any_order():
    assert not violations(GOOD)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (answer(7, 8, 8), "version 8 came after 9"),
        (answer(7, 8, 9, 0.41), "version 9 was given to two states"),
        (answer(7, 8, 9, status=503), "was answered 503"),
    ],
)
def test_each_violation_is_found(line, wrong):
    assert wrong in violations([*GOOD, line])[0]


def test_an_owner_goes_on_from_what_the_last_one_had():
    # The second goes on from 0.2, the third from what the second learnt, the fourth from what the third read.
    good = [(1_000_000, 0.1), (1_000_001, 0.2), (1_000_002, 0.3), (2_000_000, 0.2), (2_000_001, 0.4), (3_000_000, 0.4),
            (4_000_000, 0.4)]  # fmt: skip
    zombie = [*good[:-2], (3_000_000, 0.3)]  # the first went on, and wrote over what the second had

    assert not violations(answer(i, i + 0.5, *line) for i, line in enumerate(good))
    assert violations(answer(i, i + 0.5, *line) for i, line in enumerate(zombie))


def test_more_streams_that_move_than_must_are_found():
    assert not violations([{"kind": "moved", "at": 1, "moved": 30, "least": 20}])
    assert violations([{"kind": "moved", "at": 1, "moved": 31, "least": 20}])


def test_a_failed_answer_counts_only_once_the_balancer_has_noticed():
    trouble = {"kind": "trouble", "at": 6.5}
    failed = answer(7, 8, 9, status=503)

    assert not violations([*GOOD, trouble, failed])
    assert violations([*GOOD, trouble, {"kind": "calm", "at": 6.9}, failed])


def test_steps_may_be_lost_by_a_kill_and_not_by_a_plan():
    lines = [{"kind": "steps", "at": at, "stream": "gate", "steps": steps} for at, steps in ((1, 5), (2, 4))]

    assert not violations(lines)
    assert violations(lines, planned=True)
