import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical
from torch.testing import assert_close

from tta_server.adapters.losses import (
    entropy,
    log_probabilities,
)

FAST = settings(deadline=None, max_examples=50)
scores = st.floats(-50, 50, width=32)
logits = st.integers(2, 12).flatmap(
    lambda classes: st.lists(st.lists(scores, min_size=classes, max_size=classes), min_size=1, max_size=4).map(
        lambda rows: torch.tensor(rows, dtype=torch.float64)
    )
)


@FAST
@given(logits=logits)
def test_entropy_is_that_of_the_categorical_distribution(logits):
    assert_close(entropy(logits), Categorical(logits=logits).entropy())


@FAST
@given(logits=logits, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_entropy_lies_between_zero_and_log_k(logits, dtype):
    values = entropy(logits.to(dtype))

    # K sums of float32
    assert ((values >= -1e-6) & (values <= math.log(logits.shape[1]) + 1e-5)).all()


@FAST
@given(logits=logits, shift=st.floats(-100, 100))
def test_entropy_does_not_change_when_all_scores_move_together(logits, shift):
    assert_close(entropy(logits + shift), entropy(logits), atol=1e-9, rtol=1e-9)


@FAST
@given(logits=logits)
def test_the_gradient_is_the_analytic_one(logits):
    leaf = logits.clone().requires_grad_()

    entropy(leaf).sum().backward()

    # dH/dz_k = -p_k (log p_k + H)
    log_p = logits - logits.logsumexp(1, keepdim=True)
    assert_close(leaf.grad, -log_p.exp() * (log_p + entropy(logits)[:, None]))


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_equal_scores_have_the_entropy_log_k(classes):
    assert_close(entropy(torch.zeros(1, classes)), torch.tensor([math.log(classes)]))


@pytest.mark.parametrize("score", [1e3, 1e30])
def test_a_certain_answer_has_no_entropy_and_no_gradient_however_large_the_scores(score):
    leaf = torch.tensor([[score, 0.0, -score]], requires_grad=True)

    values = entropy(leaf)
    values.sum().backward()

    assert values.item() == 0
    assert torch.equal(leaf.grad, torch.zeros(1, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_of_the_scores_is_kept(dtype):
    assert entropy(torch.zeros(2, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(2, 3, 4), torch.tensor(1.0)])
def test_scores_that_are_no_matrix_are_refused(wrong: Tensor):
    with pytest.raises(ValueError, match=r"logits have shape \(.*\), expected \(N, K\)"):
        entropy(wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_softmax_of_log_probabilities_are_the_probabilities(dtype):
    shares = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 1e-30], [2.0, 1.0, 1.0], [1e-45, 1.0, 0.0]], dtype=dtype)

    logits = log_probabilities(shares)

    assert logits.isfinite().all()
    torch.testing.assert_close(logits.softmax(1), shares / shares.sum(1, keepdim=True), atol=1e-6, rtol=0)
    assert entropy(logits)[0] == pytest.approx(0, abs=1e-12)
