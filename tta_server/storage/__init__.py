"""What outlives the process: files that no crash can spoil, the audit log, and the thread that writes both."""
