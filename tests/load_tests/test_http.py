import re
import socket
import threading

import pytest
import torch

from load_tests.http import main
from load_tests.saturate import saturate

SPREAD = r"-?\d+\.\d+ \(-?\d+\.\d+--?\d+\.\d+\)"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out, threads = tmp_path_factory.mktemp("http") / "http.md", torch.get_num_threads()
    try:
        small = ["--networks", "glyphs", "--rounds", "1", "--seconds", "0.2", "--clients", "2"]
        assert main([*small, "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    return out.read_text()


def test_each_way_of_asking_has_a_row_beside_the_bare_application(report):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines() if line.startswith("| ")]

    names = [row[0] for row in rows]
    assert names == ["server", "bare", "ours, off", "ours, at home", "ours, learning"]
    assert rows[1][1] == "1.00 (1.00-1.00)"
    assert all(re.fullmatch(SPREAD, row[place]) for row in rows[1:] for place in (1, 5, 6, 7)), rows
    assert all(int(row[8]) > 100 for row in rows[1:]), "MiB of memory"


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
