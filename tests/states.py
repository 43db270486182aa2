"""Compare states bit for bit."""

from tta_server.adapters.laws.law import bits

__all__ = ["bits"]
