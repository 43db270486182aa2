"""Streams as files: what is written of a stream, how it is read again, and what is remembered of one on disk."""
