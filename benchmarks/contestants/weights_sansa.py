"""SANSA's sparse approximate EASE (recombee), in its own environment: the peer of `benchmarks.weights`.

`python weights_sansa.py INTERACTIONS.npz WEIGHTS L2 DENSITY` writes the two sparse matrices whose product holds the
weights to `WEIGHTS-0.npz` and `WEIGHTS-1.npz` and ends with its cost.
"""

import json
import resource
import sys
import time

import sansa
import scipy.sparse as sp
from sansa.core import CHOLMODGramianFactorizerConfig, UMRUnitLowerTriangleInverterConfig


def main(interactions: str, weights: str, l2: str, density: str) -> None:
    """Fit on all interactions; the density is that of the factors."""
    matrix = sp.load_npz(interactions)
    config = sansa.SANSAConfig(
        l2=float(l2),
        weight_matrix_density=float(density),
        gramian_factorizer_config=CHOLMODGramianFactorizerConfig(),
        lower_triangle_inverter_config=UMRUnitLowerTriangleInverterConfig(),
    )
    model = sansa.SANSA(config)
    model.fit(matrix[:500])  # numba compiles: not timed
    cpu, wall = time.process_time(), time.perf_counter()
    factors = model.fit(matrix).weights
    cost = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    for place, factor in enumerate(factors):
        sp.save_npz(f"{weights}-{place}.npz", factor.tocsr())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(cost | {"rss": peak, "entries": [factor.nnz for factor in factors]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
