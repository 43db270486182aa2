"""Streams of input: their states, windows and histories, and where they are found."""
