"""Processes to kill. One takes seconds to import what it needs; these are forked from one that has."""

import multiprocessing

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.crash.saver", "tests.crash.victim"])
