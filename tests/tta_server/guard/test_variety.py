import pytest
import torch

from tests.tta_server.guard.streams import clean, make_guard, model
from tta_server import adapters
from tta_server.guard.variety import distinct, diversity, enough, varied


def test_different_images_all_count():
    assert distinct(clean(0, 64)) == 64


@pytest.mark.parametrize("levels", [0, 2, 4])
def test_copies_count_once_though_they_flicker(levels):
    generator = torch.Generator().manual_seed(0)
    x = clean(0, 4).repeat(8, 1, 1, 1)

    assert distinct(x + levels / 255 * (2 * torch.rand(x.shape, generator=generator) - 1)) == 4


def test_images_of_one_colour_are_one_picture():
    assert distinct(torch.zeros(8, 3, 32, 32)) == 1


@pytest.mark.parametrize(("images", "needed"), [(2, 2), (4, 2), (16, 8), (64, 16), (256, 16)])
def test_large_windows_may_repeat_themselves_more(images, needed):
    assert enough(images) == needed


def test_diversity_is_one_for_all_alike_and_zero_for_one():
    assert diversity(torch.full((10,), 0.1)) == pytest.approx(1)
    assert diversity(torch.eye(10)[3]) == 0


@pytest.mark.parametrize(
    ("images", "classes", "said", "is_varied"),
    [
        (64, 10, 1, False),
        (64, 10, 3, False),
        (64, 10, 4, True),
        (16, 1000, 4, False),
        (16, 1000, 5, True),
        (1, 2, 1, False),
    ],
)
def test_answers_are_varied_from_about_half_the_entropy_on_that_so_many_could_have(images, classes, said, is_varied):
    assert varied(torch.arange(images) % said, classes) is is_varied


@pytest.mark.parametrize(
    ("pictures", "images", "serve"),
    [
        (1, 1, "adapted"),
        (1, 2, "source"),
        (3, 8, "source"),
        (4, 8, "adapted"),
        (7, 16, "source"),
        (8, 16, "adapted"),
        (15, 64, "source"),
        (16, 64, "adapted"),
    ],
)
def test_before_the_first_step_the_source_answers_a_stream_of_few_pictures(pictures, images, serve):
    noise = 0.004 * torch.rand(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = clean(0, pictures).repeat(-(-images // pictures), 1, 1, 1)[:images] + noise
    bn = adapters.create("bn")
    guard, home = make_guard(bn), model().backbone.forward(x)
    lost = home._replace(logits=home.logits.roll(1, 1), features=home.features + 100)

    memory, found = guard.weigh(guard.start(), x, lost, home)  # all that the stream says is credible

    assert found == serve
    if serve == "source" and images > 8:
        assert guard.admit(memory, x, lost).serve == "source"
