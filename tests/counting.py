"""The work in a jaxpr: products of matrices and convolutions with the types of their operands, found by looking at every equation."""

import math
from collections import Counter
from typing import Any

import jax

PRODUCTS = ("dot_general", "conv_general_dilated")


def products(jaxpr: Any, times: int = 1) -> Counter:
    """FLOPs, 2 m n k each, by the pair of operand types; what a scan holds counts as often as it runs, a while loop's body once."""
    found: Counter = Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            left, right = (operand.aval for operand in equation.invars[:2])
            found[str(left.dtype), str(right.dtype)] += times * _flops(equation, left, right)
        length = equation.params["length"] if equation.primitive.name == "scan" else 1
        for part in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                found += products(part, times * length)
    return found


def _flops(equation: Any, left: Any, right: Any) -> int:
    out = math.prod(equation.outvars[0].aval.shape)
    dimensions = equation.params["dimension_numbers"]
    if equation.primitive.name == "dot_general":
        return 2 * out * math.prod(left.shape[axis] for axis in dimensions[0][0])
    return 2 * out * math.prod(right.shape) // right.shape[dimensions.rhs_spec[0]]
