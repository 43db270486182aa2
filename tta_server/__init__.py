"""The server: HTTP, engine, streams, telemetry, evaluation and the command line."""

from importlib.metadata import version

__version__ = version("tta-server")
