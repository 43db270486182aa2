"""What is put together once, and shared by whatever may have it."""

import dataclasses
from collections.abc import Callable

import pytest

from tta_server.app import open_storage
from tta_server.guard import canary
from tta_server.models import Reference, load
from tta_server.runtime.assemble import make_served
from tta_server.settings import AdapterSettings
from tta_server.settings_file import load_settings


def test_all_methods_have_one_bank_of_canary_images_and_no_start_waits_for_it(monkeypatch):
    banks, make = [], canary.bank
    monkeypatch.setattr(canary, "bank", lambda images: banks.append(images) or make(images))
    settings = load_settings(None)

    served = make_served("glyphs", load("glyphs"), settings, open_storage(settings.storage))
    methods = [served.methods.prepare(AdapterSettings(settings={"lr": rate})) for rate in (1e-4, 2e-4)]

    assert len(served.methods) == len(methods)
    assert not banks
    assert not any(method.guard.vet(method.initial, method.initial) for method in methods)
    assert len(banks) == 1


def styleless(reference: Reference, **about: object) -> Reference:
    tensors = {name: tensor for name, tensor in reference.tensors.items() if not name.startswith("style/")}
    return Reference(reference.digest, tensors, reference.about | about)


def warned(adapter: str, bundle: Callable[[Reference], Reference | None], caplog: pytest.LogCaptureFixture) -> str:
    """Return what is logged when a model with such a bundle is made ready."""
    model, settings = load("glyphs"), load_settings(None, {"adapter": {"name": adapter}, "guard": {"enabled": False}})
    model = dataclasses.replace(model, reference=bundle(model.reference))
    make_served("glyphs", model, settings, open_storage(settings.storage))
    return caplog.text


def test_without_a_bundle_it_is_said_how_to_make_one(caplog):
    said = warned("tent", lambda _: None, caplog)

    assert "has no reference bundle with a style, so that" in said
    assert "make the bundle with 'tta-server calibrate'" in said


def test_of_a_bundle_that_can_have_no_style_it_is_said_why_and_not_to_make_it_anew(caplog):
    said = warned("tent", lambda known: styleless(known, left_out={"style": "needs a normalisation layer"}), caplog)

    assert "bundle has no style (needs a normalisation layer), so that" in said
    assert "set domains.max to 1" in said
    assert "calibrate" not in said


@pytest.mark.parametrize("bundle", [lambda _: None, styleless])
def test_where_nothing_is_learnt_nobody_is_told_that_it_is_learnt_in_the_shadow(bundle, caplog):
    assert warned("source", bundle, caplog) == ""
