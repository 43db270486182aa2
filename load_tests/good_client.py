"""A client that means well: it asks again and again, and writes down how long each answer took.

    python -m load_tests.good_client URL < body

Each line is when a request was sent, on the clock of `time.perf_counter`, its seconds, and its status; 0 if no answer
came.
"""

import asyncio
import sys
import time

from load_tests.connections import Connections

TIMEOUT_S = 5.0
"""How long it waits for an answer."""

_PAUSE_S = 0.02


async def ask(url: str, body: bytes) -> None:
    """Ask until nobody reads what it writes."""
    connections = Connections(url)
    while True:
        started_s = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status = (await connections.post("/predict", {"X-Stream-Id": "good"}, body)).status
        except (OSError, EOFError, TimeoutError):
            status = 0
        print(f"{started_s:.6f} {time.perf_counter() - started_s:.6f} {status}", flush=True)
        await asyncio.sleep(_PAUSE_S)


if __name__ == "__main__":
    asyncio.run(ask(sys.argv[1], sys.stdin.buffer.read()))
