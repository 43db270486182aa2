"""What judges every learning step: the guard, and what it looks at."""
