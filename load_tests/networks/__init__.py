"""Networks and images that are not the embedded ones, made from what Python packages carry."""
