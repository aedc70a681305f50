"""Public property-testing kit for tensor compilers."""
