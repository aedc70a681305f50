"""A pass and a backend of one's own."""
