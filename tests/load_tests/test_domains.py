import torch

from load_tests import domains
from load_tests.routed import Routed
from tests.tta_server.guard.streams import clean, foggy, model
from tta_server.domains.space import StyleSpace, fit


def space(limit=4.0) -> StyleSpace:
    backbone = model().backbone
    layers = backbone.norm_layers[2:5:2]
    styles, _ = backbone.styles(clean(0, 512), layers)
    return fit(layers, styles[:320], styles[320:], limit)


def test_clean_images_are_answered_by_the_frozen_model_and_fog_by_a_domain_of_its_own():
    backbone = model().backbone
    stream = Routed(backbone, space(), lr=1e-3, window=32)

    for start in range(512, 640, 16):
        assert torch.equal(stream.answer(clean(start, 16)), backbone.forward(clean(start, 16)).logits)
    assert not stream.domains
    for start in range(512, 640, 16):
        stream.answer(foggy(clean(start, 16)))

    assert len(stream.domains) == 1
    assert stream.domains[0].steps == 4
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
    assert "Domains that were opened" in printed
