"""Laws of domains over long streams, and of many domains that are answered and learn together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tta_server.runtime.fakes import SHAPE, Wired, bright, dark, learn_all, queued, tiny
from tests.tta_server.runtime.told_apart import domains, telling
from tta_server.runtime.job import HOME, Job
from tta_server.runtime.work import answerer, trial
from tta_server.streams.window import Offered

ROWS, TOGETHER = 64, 20
NAMES = "abcd"
KINDS = (dark, bright)


@pytest.mark.parametrize(("known", "windows"), [(0, 10_000), (1, 1_000)])
def test_ten_thousand_clean_windows_are_answered_as_the_frozen_model_does(known: int, windows: int):
    subject, backbone = telling(), tiny()
    for kind in KINDS[:known]:
        _ask(subject, {"door": kind(16)})
        learn_all(subject)
    draw = np.random.default_rng(0)
    unhashed = {"digests": (b"",) * ROWS, "constant": (False,) * ROWS}  # what is at home goes into no window
    for _ in range(windows // TOGETHER):
        images = draw.integers(0, 256, (TOGETHER, ROWS, *SHAPE), dtype=np.uint8)
        jobs = [Job("door", Offered(shown, **unhashed), 0.0) for shown in images]

        subject.worker.answer(jobs)

        expected = backbone.forward(torch.from_numpy(images).flatten(0, 1).float() / 255).logits.softmax(1).numpy()
        answers = [job.future.result(0) for job in jobs]
        assert np.array_equal(np.concatenate([answer.probabilities for answer in answers]), expected)
        assert {place for answer in answers for place in answer.domains} == {HOME}
    assert len(domains(subject)) == known
    assert subject.stream("door").images == windows * ROWS + 16 * known


@settings(max_examples=25, deadline=None)
@given(
    rounds=st.lists(
        st.dictionaries(st.sampled_from(NAMES), st.sampled_from(KINDS), min_size=2), min_size=1, max_size=4
    ),
    rows=st.sampled_from([8, 16]),
    seed=st.integers(0, 2**16),
)
def test_domains_of_several_streams_stacked_equal_those_one_after_another(rounds: list[dict], rows: int, seed: int):
    stacked, looped = telling(engine={"stack_rows": 256}), telling(engine={"stack_rows": 0})
    for turn, shown in enumerate(rounds):
        images = {name: kind(rows, seed + 10 * turn + NAMES.index(name)) for name, kind in shown.items()}

        together = _ask(stacked, images)
        alone = {name: _ask(looped, {name: own})[name] for name, own in images.items()}
        for subject in (stacked, looped):
            learn_all(subject)

        for name in images:
            assert np.allclose(together[name], alone[name], atol=1e-5)
    for name in {name for shown in rounds for name in shown}:
        assert domains(stacked, name) == domains(looped, name) != []
        for domain in domains(stacked, name):
            found, expected = stacked.stream(domain), looped.stream(domain)
            assert found.steps == expected.steps
            for key, tensor in expected.state.items():
                assert torch.allclose(found.state[key], tensor, atol=1e-5, rtol=1e-5), key


def test_domains_of_several_streams_share_forwards_and_steps(monkeypatch: pytest.MonkeyPatch):
    sizes: dict[str, list[int]] = {"predict_stacked": [], "adapt_stacked": []}
    for module, verb in ((answerer, "predict_stacked"), (trial, "adapt_stacked")):
        usual = getattr(module, verb)

        def counts(*arguments, usual=usual, verb=verb):
            sizes[verb].append(len(arguments[2]))
            return usual(*arguments)

        monkeypatch.setattr(module, verb, counts)
    subject = telling(engine={"stack_rows": 256})
    for seed in range(2):
        _ask(subject, {name: KINDS[NAMES.index(name) % 2](16, seed) for name in NAMES})
        learn_all(subject)

    assert sizes == {"predict_stacked": [4, 4], "adapt_stacked": [4, 4]}


def _ask(subject: Wired, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    jobs = {name: queued(name, shown, 0.0) for name, shown in images.items()}
    subject.worker.answer(list(jobs.values()))
    return {name: job.future.result(0).probabilities for name, job in jobs.items()}
