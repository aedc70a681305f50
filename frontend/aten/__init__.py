"""Importing ATen programs into the IR: a neutral view of an exported program, and a table from ATen op to importer function."""
