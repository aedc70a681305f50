"""Kernels: one file each, which declares layouts, SRAM, cycles and the steps that PEs run.

A kernel is a frozen dataclass whose fields are its sizes, grid and variant. `Fragment` (`fragment`) is what it hands to a planner: slots
(roles bound to buffers and layouts), buffers without addresses, and steps. `cycles(machine, scalars)` is its closed form, tested equal to
the sum over the executed steps; `candidates(…)` lists the variants worth pricing on a grid.
"""
