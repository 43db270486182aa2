"""`tta-server demo`: a drifting camera against a real server."""
