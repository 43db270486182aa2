"""Write the state file that tests read as one of a server of another version; a new schema gets a file of its own.

python -m tests.tta_server.streams.write_state
"""

import tempfile
from pathlib import Path

import numpy as np

from tests.tta_server.runtime.fakes import ask, close, learn_all, rows, wired
from tta_server.drift.evidence import SHIFT, TESTED, Evidence
from tta_server.drift.watch import Learnt, Watch
from tta_server.storage.store import Store
from tta_server.streams.files.stored import SCHEMA
from tta_server.telemetry.closed_sets import DRIFT_SCORES

TIME = "2026-01-01T00:00:00.000+00:00"
DRIFTS = Watch(
    state="drift",
    since=TIME,
    because="entropy_ratio",
    evidence=Evidence(9.0, dict.fromkeys((*TESTED, SHIFT), 3.0), TIME, 1, 2),
    alarmed=True,
    first_astray=TIME,
    settled=3,
    names=DRIFT_SCORES,
    windows=np.arange(2.0 * (3 + len(DRIFT_SCORES))).reshape(2, -1) % 4,
    waiting=np.full((3, 5), 0.5),
    shares=np.full(4, 0.25, np.float32),
    seen=2,
    learnt=Learnt({"agreement": 0.5}, {"norm_w2_mean": 0.1}, 4, {"bn": (0.1, 0.2)}),
)


def main() -> None:
    """Have a stream learn, and keep the file that it leaves."""
    with tempfile.TemporaryDirectory() as folder:
        subject = wired(storage=folder, duplicate_memory=10)
        for seed in range(3):
            ask(subject, "kept", rows(4, seed), client="ann")
            learn_all(subject)
        ask(subject, "kept", rows(2, 9), client="ann")
        subject.stream("kept").drift = DRIFTS
        subject.commands.save()
        close()
        data = Store(folder).load("kept")
    assert data is not None
    Path(__file__).with_name(f"state_schema_{SCHEMA}.safetensors").write_bytes(data)


if __name__ == "__main__":
    main()
