"""gRPC: each call is put to the application as the HTTP request that means the same, and its answer put back."""

import os

# Read when grpc is first imported: else it writes a line of its own, in no format of this server's log, for whoever
# speaks no TLS to its port.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
