"""What operators may do to streams: `stream_commands.py` has all of it, the other commands are parts of it."""
