"""What is put together once, and shared by whatever may have it."""

from tta_server.app import open_storage
from tta_server.guard import canary
from tta_server.models import load
from tta_server.runtime.assemble import make_served
from tta_server.settings import AdapterSettings
from tta_server.settings_file import load_settings


def test_all_methods_have_one_bank_of_canary_images(monkeypatch):
    banks, make = [], canary.bank
    monkeypatch.setattr(canary, "bank", lambda images: banks.append(images) or make(images))
    settings = load_settings(None)

    served = make_served("glyphs", load("glyphs"), settings, open_storage(settings.storage))
    methods = [served.methods.prepare(AdapterSettings(settings={"lr": rate})) for rate in (1e-4, 2e-4)]

    assert len(served.methods) == len(methods)
    assert len(banks) == 1
