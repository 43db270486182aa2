"""Domains of a stream: how its images look, which of them look alike, and what is new. Values and pure functions."""
