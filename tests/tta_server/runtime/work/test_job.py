"""Parts of requests, and the answers that they are put together to."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.tta_server.runtime.fakes import hard_tent, rows
from tta_server.guard.judge import Unguarded
from tta_server.runtime.job import Author, Draft, Job, Piece, Scores
from tta_server.streams.history import History
from tta_server.streams.ledger import UNASKED
from tta_server.streams.stream import Method, Stream
from tta_server.streams.window import Window, prepared

METHOD = Method(hard_tent(), {}, Unguarded())


def stream() -> Stream:
    return Stream("door", "after", METHOD, METHOD.initial, METHOD.guard.start(), Window(4), History(0))


def said(places: np.ndarray) -> Scores:
    """Return scores that say which image each row is."""
    columns = places.astype(np.float32)
    return Scores(columns[:, None] + np.zeros(3, np.float32), columns, places, columns)


def test_the_images_of_a_part_are_copied_once():
    part = Piece(Job("door", prepared(rows(4)), 0.0), stream(), np.array([0, 2]))

    assert part.images is part.images
    assert part.rows == len(part.images) == 2


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.sets(st.integers(0, 3)), st.randoms())
def test_parts_are_put_together_in_the_order_of_the_request(whose, frozen, random):
    job, owner = Job("door", prepared(rows(len(whose))), 0.0), stream()
    owners = sorted(set(whose))
    places = [np.flatnonzero(np.array(whose) == each) for each in owners]
    parts = [Piece(job, stream(), own if len(owners) > 1 else None) for own in places]
    draft = Draft(job, owner, parts, 0.0)
    order = list(range(len(parts)))
    random.shuffle(order)

    done = [draft.take(parts[i], said(places[i]), Author(0, False, source=owners[i] in frozen)) for i in order]

    everything = np.arange(len(whose))
    assert done == [False] * (len(parts) - 1) + [True]
    for column in (draft.whole.entropies, draft.whole.classes, draft.whole.confidences, draft.answer().entropy_nats):
        assert (column == everything).all()
    assert (draft.answer().probabilities == everything[:, None]).all()
    asked = np.isin(whose, list(frozen))
    assert (draft.source == np.where(asked, everything, UNASKED)).all()
