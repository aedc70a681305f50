"""The only arithmetic that either engine may compute with.

Everything here is made of add, subtract, multiply, maximum, compare, select, conversion and integer bit operations, each rounded to its
format, in a stated order: no libm, no numpy transcendental, no reduction whose order follows the memory layout.

* `formats`: number formats, their carriers and their rounding;
* `functions`: exp, log, reciprocal, rsqrt, sqrt, erf, tanh, sigmoid, gelu, silu with measured error bounds;
* `matrix`: compiled loops, bit-identical to their array form;
* `instructions`: what a local step may name: body, cycles and emitted name in one declaration; `sparse`: those of stored non-zeros.
"""

from cgptc.backends.wafer.arithmetic import sparse as sparse
