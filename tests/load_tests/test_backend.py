"""The comparison of runtimes runs, and says how far they are apart and how long each takes."""

import re

import torch

from load_tests.backend import main


def test_each_way_is_timed_and_both_runtimes_say_the_same(capsys):
    threads = torch.get_num_threads()
    try:
        status = main(["--models", "glyphs", "--batches", "2", "--threads", "1", "--seconds", "0.01"])
    finally:
        torch.set_num_threads(threads)

    printed = capsys.readouterr().out
    assert status == 0
    assert re.search(r"glyphs: apart \d\.\de-\d\d as the source, \d\.\de-\d\d after three steps of TENT", printed)
    assert re.search(r"\| 1 \| 2 \| [\d.]+ \|( [\d.]+ \([\d.]+-[\d.]+\) \|){3}", printed)
