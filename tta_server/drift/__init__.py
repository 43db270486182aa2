"""Whether the input drifts: scores of windows, what they are without drift, evidence, and a state with hysteresis."""
