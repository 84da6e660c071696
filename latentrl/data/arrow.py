"""Columns of Arrow tables as arrays of numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrl.checks import LatentRLError


def numbers(what: str, column: Any) -> NDArray[Any]:
    """A ``pyarrow.Array`` of numbers, or of lists in lists of them that are equally long: (N, *shape).

    :raises LatentRLError: lists of different lengths, missing values, or other values than numbers
    """
    import pyarrow as pa

    shape = [len(column)]
    while True:
        if isinstance(column, pa.ExtensionArray):  # such as Array2D of the package datasets
            column = column.storage
        if column.null_count:
            raise LatentRLError(f"{what} lacks {column.null_count} of {len(column)} values: repair or remove them")
        if not pa.types.is_nested(column.type) or pa.types.is_struct(column.type):
            break
        if pa.types.is_fixed_size_list(column.type):
            lengths = np.array([column.type.list_size])
        else:
            lengths = np.unique(column.value_lengths().to_numpy())
        if len(lengths) > 1:
            raise LatentRLError(
                f"{what} are lists of {lengths.min()} to {lengths.max()} values: make them equally long"
            )
        shape.append(int(lengths[0]) if len(lengths) else 0)
        column = column.flatten()
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise LatentRLError(f"{what} are of type {column.type}: give numbers")
    return column.to_numpy(zero_copy_only=False).reshape(shape)
