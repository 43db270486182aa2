import numpy as np
import pytest
import torch

from load_tests import courses, domains
from load_tests.routed import Routed
from tests.tta_server.guard.streams import clean, foggy, model
from tta_server.domains.space import StyleSpace, fit


def space(limit=2.0) -> StyleSpace:
    backbone = model().backbone
    layers = backbone.norm_layers[2:5:2]
    styles, output = backbone.styles(clean(0, 512), layers)
    assert output is not None
    return fit(layers, styles[:320], styles[320:], output.logits[:320].argmax(1), limit)


def test_clean_images_are_answered_by_the_frozen_model_and_fog_by_a_domain_of_its_own():
    backbone = model().backbone
    stream = Routed(backbone, space(), lr=1e-3, window=32)

    for start in range(512, 640, 16):
        assert torch.equal(stream.answer(clean(start, 16)), backbone.forward(clean(start, 16)).logits)
    assert stream.routing.opened == 0
    for start in range(512, 640, 16):
        stream.answer(foggy(clean(start, 16)))

    assert stream.routing.opened == 1
    again = clean(640, 16)
    assert torch.equal(stream.answer(again), backbone.forward(again).logits)
    assert not torch.equal(stream.answer(foggy(again)), backbone.forward(foggy(again)).logits)


def test_a_request_of_both_is_answered_image_by_image():
    backbone = model().backbone
    stream = Routed(backbone, space(), lr=1e-3, window=32)
    for start in range(512, 640, 16):
        stream.answer(foggy(clean(start, 16)))

    mixed = torch.cat([clean(640, 8), foggy(clean(648, 8))])
    answers = stream.answer(mixed)

    torch.testing.assert_close(answers[:8], backbone.forward(mixed).logits[:8])
    assert not torch.allclose(answers[8:], backbone.forward(mixed).logits[8:])


def test_the_benchmark_prints_a_row_for_each_side(capsys):
    assert domains.main(["--count", "32", "--seeds", "1"]) == 0

    printed = capsys.readouterr().out
    assert printed.count("| routed by style") == 2
    assert "| frozen |" in printed
    assert "| opened | merged |" in printed


@pytest.mark.parametrize("kind", list(courses.KINDS))
def test_a_stream_shows_images_that_there_are(kind):
    labels = np.arange(96) % 4

    made = courses.streams(kind, labels, 96, 0)

    assert made
    for stretches in made.values():
        assert all(len(stretch.rows) and len(labels[stretch.rows]) <= 96 for stretch in stretches)


def test_the_worst_20_windows_are_found_wherever_they_lie():
    frozen = [np.zeros(2000, bool), np.zeros(2000, bool)]
    wrong = [np.zeros(2000, bool), np.arange(2000) < 128]

    assert domains.worst(wrong, frozen) == pytest.approx(10)
    assert domains.worst(frozen, wrong) == 0
    assert domains.worst([wrong[1][:256]], [frozen[1][:256]]) == pytest.approx(50)
