"""Features reduced to their directions of largest energy, so that wide vectors cost what narrow ones do."""

import numpy as np
from jaxtyping import Float
from scipy import linalg


def principal_subspace(matrix: Float[np.ndarray, "items width"], rank: int) -> Float[np.ndarray, "items rank"]:
    """Coordinates of the rows in their `rank` directions of largest energy, largest first.

    The directions are eigenvectors of the uncentred second moment, so the common direction of post-ReLU features stays;
    each one's sign makes its largest component positive. Coordinates are scaled by √(rank / width), so that a freshly
    initialised linear layer has outputs of the same scale as on the whole vectors.

    Args:
        matrix: float32; zero rows have no effect.
    Returns: float32; `matrix` itself if it has no more than `rank` columns or rows.
    """
    items, width = matrix.shape
    if min(items, width) <= rank:
        return matrix
    moment = (matrix.T @ matrix).astype(np.float64)
    _, directions = linalg.eigh(moment, subset_by_index=(width - rank, width - 1))
    directions = directions[:, ::-1]
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(rank)]
    directions = directions * np.where(largest < 0, -1, 1)
    return np.ascontiguousarray(matrix @ directions.astype(np.float32)) * np.float32(np.sqrt(rank / width))
