"""What an operator does at a terminal with a server that runs."""
