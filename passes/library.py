"""Importing this module registers every pass: each module of this package that declares one."""

import importlib
import pkgutil

import cgptc.passes

for _module in pkgutil.iter_modules(cgptc.passes.__path__, "cgptc.passes."):
    if _module.name != __name__:
        importlib.import_module(_module.name)
