import pytest
import torch
from torch.testing import assert_close

from tests.networks import golden, reference_network
from tta_server.adapters.bn import BN
from tta_server.models import TorchBackbone


def test_batch_statistics_reproduce_the_reference_outputs(backbone, batches):
    adapter, reference = BN(stats="batch"), golden("norm")
    state, logits = adapter.init(backbone), []

    for batch in batches:
        step = adapter.adapt(backbone, state, batch)
        state, logits = step.state, [*logits, step.output.logits]

    # the same float32 arithmetic in another order
    assert_close(torch.stack(logits), reference["logits"], atol=1e-5, rtol=0)
    final = {f"stats/{name[6:]}": t for name, t in reference.items() if name.endswith(("running_mean", "running_var"))}
    assert state.keys() == final.keys()
    for name, tensor in final.items():
        assert_close(state[name], tensor, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("momentum", [0.1, 0.3, 1.0])
def test_moving_statistics_with_a_momentum_are_those_of_training_and_answer_as_evaluation(momentum, batches):
    module = reference_network().double()
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = momentum
    backbone = TorchBackbone(module, (3, 32, 32))
    adapter = BN(stats="ema", stats_momentum=momentum)
    state = adapter.init(backbone)

    for batch in batches[:3]:
        state = adapter.adapt(backbone, state, batch).state
        module.train()(batch.double())

    assert_close(adapter.predict(backbone, state, batches[3]).logits, module.eval()(batches[3].double()))


def test_moving_means_move_towards_the_window_and_never_past_it(backbone, batch):
    adapter = BN(stats="ema")
    before = adapter.init(backbone)
    moments = backbone.forward(batch, statistics="batch").moments

    after = adapter.adapt(backbone, before, batch).state

    for name in (name for name in after if name.endswith("running_mean")):
        tensor, window = after[name], moments[name.removeprefix("stats/")]
        low, high = torch.minimum(before[name], window), torch.maximum(before[name], window)
        assert ((tensor >= low - 1e-6) & (tensor <= high + 1e-6)).all()
        assert not torch.equal(tensor, before[name])


def test_a_window_answered_again_and_again_ends_near_its_own_statistics(backbone, batch):
    adapter = BN(stats="ema", stats_momentum=0.5)
    state = adapter.init(backbone)

    for _ in range(15):
        state = adapter.adapt(backbone, state, batch).state

    # stored variances are unbiased, a batch normalises by the biased ones
    answers, own = adapter.predict(backbone, state, batch).logits, BN("batch").predict(backbone, state, batch).logits
    assert_close(answers, own, atol=0.1, rtol=0.05)


def test_nothing_but_the_statistics_and_how_many_images_they_count_for_is_kept(backbone):
    stats = {f"stats/{name}" for name in backbone.norm_stats()}

    assert BN().init(backbone).keys() == stats | {"count/images"}
    assert BN("batch").init(backbone).keys() == stats


@pytest.mark.parametrize("stats", ["ema", "batch"])
def test_only_batch_statistics_couple_the_rows(stats):
    assert BN(stats).batch_coupled == (stats == "batch")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stats": "mean"}, "stats must be 'batch' or 'ema', got 'mean'"),
        ({"stats_momentum": 0.0}, r"stats_momentum must be in \(0, 1\], got 0.0"),
        ({"stats_momentum": 1.5}, "stats_momentum must be in"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BN(**settings)
