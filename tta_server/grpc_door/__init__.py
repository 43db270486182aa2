"""gRPC: each call is put to the application as the HTTP request that means the same, and its answer put back."""
