"""The Open Inference Protocol over HTTP: its routes, what they answer, and tensors as JSON and as bytes."""
