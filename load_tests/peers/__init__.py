"""Other servers of the same network, to compare this one with.

Each decodes one image file by the same code, answers from the same module, batches what waits, and does nothing else:
no streams, limits, keys, ids or metrics. They are started as `python -m load_tests.peers.NAME NETWORK PORT`; all but
`bare` need a library of their own, which this project does not ask for.
"""
