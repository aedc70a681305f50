"""Passes over the dataflow IR: one file a pass."""
