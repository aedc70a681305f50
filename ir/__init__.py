"""The dataflow IR."""
