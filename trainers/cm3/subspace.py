"""Features reduced to their directions of largest energy, so that wide vectors cost what narrow ones do."""

import numpy as np
from jaxtyping import Float
from scipy import linalg


def principal_directions(matrix: Float[np.ndarray, "items width"], rank: int) -> Float[np.ndarray, "width rank"] | None:
    """The `rank` directions of largest energy, largest first; None where there are no more columns or rows.

    They are eigenvectors of the uncentred second moment, so the common direction of post-ReLU features stays; each
    one's sign makes its largest component positive.

    Args:
        matrix: float32; zero rows have no effect.
    """
    items, width = matrix.shape
    if min(items, width) <= rank:
        return None
    moment = (matrix.T @ matrix).astype(np.float64)
    _, directions = linalg.eigh(moment, subset_by_index=(width - rank, width - 1))
    directions = directions[:, ::-1]
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(rank)]
    directions = directions * np.where(largest < 0, -1, 1)
    return np.ascontiguousarray(directions.astype(np.float32))


def coordinates(
    matrix: Float[np.ndarray, "items width"], directions: Float[np.ndarray, "width rank"] | None
) -> Float[np.ndarray, "items rank"]:
    """Coordinates of the rows in the directions, or the rows themselves where there are none.

    They are scaled by √(rank / width), so that a freshly initialised linear layer has outputs of the same scale as on
    the whole vectors.
    """
    if directions is None:
        return matrix
    width, rank = directions.shape
    return np.ascontiguousarray(matrix @ directions) * np.float32(np.sqrt(rank / width))


def principal_subspace(matrix: Float[np.ndarray, "items width"], rank: int) -> Float[np.ndarray, "items rank"]:
    """Coordinates of the rows in their own principal directions; `matrix` itself if it has no more columns or rows."""
    return coordinates(matrix, principal_directions(matrix, rank))
