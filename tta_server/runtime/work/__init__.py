"""What the device thread does: tell images apart, answer groups of requests, learn from windows; no thread in here."""
