"""Who hear what happens to streams: the audit log, metrics, the log, and what wakes somebody."""
