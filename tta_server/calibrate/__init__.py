"""`tta-server calibrate`: what the server needs of the source data, computed once."""
