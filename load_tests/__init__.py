"""Measurements that a person runs by hand: latency, throughput and load. CI checks their structure, never a time."""
