"""Transfer functions, one file per family. Importing this package fills the table."""

from gradlint.ops import (
    activation,
    attention,
    classify,
    combine,
    conv,
    embed,
    experts,
    index,
    linear,
    loss,
    norm,
    order,
    packed,
    pieces,
    pool,
    recurrent,
    reduce,
    regularise,
    scatter,
    shape,
    softmax,
)
from gradlint.ops.apart import by_parts
from gradlint.ops.registry import IDENTITY, POINTWISE, TABLE, Call, Flow, Op, Returned, check, lookup, transfer

__all__ = ["IDENTITY", "POINTWISE", "TABLE", "Call", "Flow", "Op", "Returned", "by_parts", "check", "lookup", "transfer"]

FAMILIES = (
    activation,
    attention,
    classify,
    combine,
    conv,
    embed,
    experts,
    index,
    linear,
    loss,
    norm,
    order,
    packed,
    pieces,
    pool,
    recurrent,
    reduce,
    regularise,
    scatter,
    shape,
    softmax,
)
