"""Who shares a forward: what the queue groups, and what is answered together, is one decision."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tta_server.runtime.fakes import Wired, ask, learn_all, queued, rows, wired
from tta_server.runtime.job import Piece

requests = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "off", "lab"]), st.integers(1, 6)), min_size=1, max_size=9
)


def taught(stack_rows: int) -> Wired:
    named = {"off": {"mode": "off"}, "lab": {"mode": "inline"}}
    subject = wired(window=4, engine={"stack_rows": stack_rows}, named=named)
    for seed, name in enumerate("abc"):
        ask(subject, name, rows(4, seed))
    learn_all(subject)
    return subject


@settings(max_examples=30, deadline=None)
@given(wanted=requests, stack_rows=st.sampled_from([0, 4, 8, 64]))
def test_what_shares_a_forward_was_grouped_so_and_keeps_to_the_limit_on_stacks(wanted, stack_rows):
    subject = taught(stack_rows)
    jobs = [queued(name, rows(count, seed), 0.0) for seed, (name, count) in enumerate(wanted)]
    asked = [Piece(job, subject.worker.parts.registry.open(job.stream, 0.0)) for job in jobs]

    for group in subject.worker.parts.answerer.groups(asked):
        assert len({subject.worker.grouping()(part.job) for part in group}) == 1
        sizes: dict[str, int] = {}
        for part in group:
            sizes[part.stream.name] = sizes.get(part.stream.name, 0) + part.rows
        if len(sizes) > 1 and not group[0].stream.answers_as_source:
            assert max(sizes.values()) * len(sizes) <= stack_rows
