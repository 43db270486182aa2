import re
import socket
import threading

import numpy as np
import pytest
import torch

from load_tests.http import main
from load_tests.networks import digits
from load_tests.networks.folders import Shown, write, write_images
from load_tests.saturate import saturate

SPREAD = r"-?\d+\.\d+ \(-?\d+\.\d+--?\d+\.\d+\)"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder, threads = tmp_path_factory.mktemp("http"), torch.get_num_threads()
    out, other = folder / "http.md", folder / "digits"
    drawn = np.random.default_rng(0).integers(0, 256, (9, 3, digits.SIDE, digits.SIDE), dtype=np.uint8)
    write(
        other,
        "load_tests.networks.digits:batch_norm",
        digits.batch_norm().state_dict(),
        digits.LABELS,
        size=[digits.SIDE] * 2,
    )
    write_images(other / "evaluate", Shown(drawn, np.arange(9)), digits.LABELS)
    try:
        small = ["--networks", str(other), "--rounds", "1", "--seconds", "0.2", "--clients", "2"]
        assert main([*small, "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    return out.read_text()


def test_each_way_of_asking_has_a_row_beside_the_bare_application(report):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines() if line.startswith("| ")]

    names = [row[0] for row in rows]
    assert names == ["server", "bare", "ours, off", "ours, at home", "ours, learning"]
    assert rows[1][1] == "1.00 (1.00-1.00)"
    asked = [row for row in rows if row[0] != "server"]
    assert all(re.fullmatch(SPREAD, row[place]) for row in asked for place in (1, 5, 6, 7)), rows
    assert all(int(row[8]) > 100 for row in asked), "MiB of memory"
    assert "**digits**" in report


def test_a_server_that_refuses_is_an_error_and_not_a_fast_one():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(RuntimeError, match="429"):
            saturate(listening.getsockname()[1], [b"POST / HTTP/1.1\r\n\r\n"], 1, 0.0, 0)
        thread.join()
