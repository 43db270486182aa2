"""What keeps a stream trustworthy: the guard that judges every step, and the store that no crash can spoil."""
