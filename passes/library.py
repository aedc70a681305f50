"""Importing this module registers every pass: each module of this package that declares one, then those of other packages.

A package adds passes by an entry point of the group ``cgptc.passes`` that names a module, or a class in one.
"""

import importlib
import pkgutil
from importlib.metadata import entry_points

import cgptc.passes

for _module in pkgutil.iter_modules(cgptc.passes.__path__, "cgptc.passes."):
    if _module.name != __name__:
        importlib.import_module(_module.name)
for _entry in sorted(entry_points(group="cgptc.passes"), key=lambda entry: entry.name):
    _entry.load()
