"""The command line: one file per command, and the frame that they share."""
