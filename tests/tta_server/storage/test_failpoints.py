import os
import subprocess
import sys

import pytest

from tests.tta_server.storage.crashes import Crash, armed
from tta_server.storage.failpoints import POINTS, failpoint


def test_nothing_happens_unless_it_is_asked_for():
    for point in POINTS:
        failpoint(point)


def test_the_process_dies_at_the_hit_that_was_named():
    with armed("store.mid_write=3"):
        failpoint("store.mid_write")
        failpoint("store.before_write")
        failpoint("store.mid_write")
        with pytest.raises(Crash):
            failpoint("store.mid_write")


def test_a_failure_happens_once_or_from_there_on():
    with armed("store.mid_write=1:enospc, store.before_fsync=1+:eio"):
        with pytest.raises(OSError, match="No space left"):
            failpoint("store.mid_write")
        failpoint("store.mid_write")
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output error"):
                failpoint("store.before_fsync")


@pytest.mark.parametrize(
    "text", ["store.mid_wriet=1", "store.mid_write", "store.mid_write=0", "store.mid_write=1:boom"]
)
def test_a_typo_is_refused(text):
    with pytest.raises(ValueError, match="FAILPOINTS has"), armed(text):
        pass


def test_the_environment_arms_them_and_the_kill_is_a_real_one():
    code = "from tta_server.storage.failpoints import failpoint; failpoint('store.mid_write'); print('still there')"
    environment = os.environ | {"FAILPOINTS": "store.mid_write=1", "PYTHONPATH": "."}

    died = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)

    assert (died.returncode, died.stdout) == (-9, "")
