"""Compare states bit for bit."""

from tta_server.adapters.laws.law import bits, layout

__all__ = ["bits", "layout"]
