"""What hostile clients get, what they cost the server, and how long a good client waits meanwhile.

    python -m load_tests.hostile --seconds 5 --out hostile.md

The server has its defaults and the embedded model. Attackers would have machines of their own; here they share the
server's, and so run at the lowest priority: they have the CPUs that neither the server nor the good client wants. The
ratio is to the good client's p99 of all times without an attack together: that of five seconds is of two hundred
answers.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from load_tests.attacks import ATTACKS, Attack, prepare
from load_tests.clock import quantile
from load_tests.grpc_attacks import GRPC_ATTACKS
from load_tests.local_server import local_server
from load_tests.machine import load_average
from load_tests.report import publish, ran_on, row
from load_tests.siege import Good, Siege, Stood, memory, siege

_LOWEST = 19
_MIB = 2**20
_COLUMNS = (
    *("attack", "its connections got", "longest, s", "due, s", "memory, MiB", "good: lost", "p99 without, ms"),
    *("p99 with, ms", "ratio"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a Markdown report, and write it to a file if asked; returns 1 if an answer was wrong or lost."""
    options = _parser().parse_args(arguments)
    before, seen, failed = load_average(), list[tuple[Attack, Stood, Stood]](), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder / "kept")
        config = {"storage": {"url": str(folder / "kept")}, "server": {"grpc_port": 0}}
        with local_server(folder, config, options.threads) as server:
            with siege(server.url, server.pid, folder) as begun:
                os.nice(_LOWEST)  # of this process, which attacks
                begun.quiet(options.seconds)  # warms up
                at_rest = memory(server.pid, "VmRSS")
                for attack in [each for each in (*GRPC_ATTACKS, *ATTACKS) if options.only in each.name]:
                    print(attack.name, file=sys.stderr)
                    quiet, stood = begun.quiet(options.seconds), _again(begun, attack, options.seconds)
                    seen.append((attack, quiet, stood))
                    failed += [attack.name] if _fails(attack, stood) else []
            stopping_s = time.monotonic()
        stopping_s = time.monotonic() - stopping_s
    lines = [
        *ran_on(before),
        f"- memory at rest: {at_rest / _MIB:.0f} MiB",
        f"- stopped {stopping_s:.1f} s after it was told",
    ]
    usual_ms = _slow_ms([good for _, quiet, _ in seen for good in quiet.good])
    lines += [f"- the good client's p99 without an attack, of all times together: {usual_ms:.0f} ms", ""]
    rows = [_row(*one, at_rest, usual_ms) for one in seen]
    lines += [row(*_COLUMNS), f"|{'---|' * len(_COLUMNS)}", *rows]
    lines += [f"\nnot as it should be: {', '.join(failed)}"] if failed else []
    publish(lines, options.out)
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.hostile", description="Attack a server.")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack, and before it (default: 5)")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads (default: its own choice)")
    parser.add_argument("--only", default="", help="attacks whose names hold this (default: all)")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    return parser


def _again(begun: Siege, attack: Attack, seconds: float) -> Stood:
    """Attack until some seconds are over; returns what was seen in all of them."""
    found = begun.stand(attack)
    while found.took_s < seconds:
        more = begun.stand(attack)
        found = Stood(
            found.took_s + more.took_s,
            max(found.peak_bytes, more.peak_bytes),
            found.heard + more.heard,
            found.good + more.good,
            found.probes + more.probes,
        )
    return found


def _fails(attack: Attack, stood: Stood) -> bool:
    return bool(attack.wrong(stood.heard)) or _lost(stood) > 0 or set(stood.probes) != {200}


def _lost(stood: Stood) -> int:
    return sum(each.status != 200 for each in stood.good)


def _slow_ms(good: Sequence[Good]) -> float:
    return 1000 * quantile([each.took_s for each in good], 0.99)


def _row(attack: Attack, quiet: Stood, stood: Stood, at_rest: int, usual_ms: float) -> str:
    got = Counter(each.status for each in stood.heard)
    told = ", ".join(f"{count} x {status or 'closed'}" for status, count in got.most_common())
    cells = [
        *(attack.name, told, f"{max(each.took_s for each in stood.heard):.1f}", f"{attack.within_s:g}"),
        *(f"+{max(0, stood.peak_bytes - at_rest) / _MIB:.0f}", f"{_lost(stood)} of {len(stood.good)}"),
        *(f"{_slow_ms(quiet.good):.0f}", f"{_slow_ms(stood.good):.0f}", f"{_slow_ms(stood.good) / usual_ms:.1f}"),
    ]
    return row(*cells)


if __name__ == "__main__":
    sys.exit(main())
