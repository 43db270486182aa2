"""The queue and its threads: who is let in, what goes into the next forward, when there is time to learn."""
