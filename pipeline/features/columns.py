"""Arrow columns of vectors."""

import numpy as np
import pyarrow as pa

from pipeline.encoders.base import Vectors
from schemas.tables import vector


def fixed_width_from(values: Vectors, missing: np.ndarray | None = None) -> pa.FixedSizeListArray:
    """(n, dim) as `vector(dim)`, null where `missing`."""
    mask = None if missing is None else pa.array(missing)
    flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=vector(values.shape[1]), mask=mask)
