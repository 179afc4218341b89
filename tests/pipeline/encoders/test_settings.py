"""What is set once in the life of a process."""

import subprocess
import sys

FAULTS = """
import resource, sys
import torch
from pipeline.encoders import settings

if sys.argv[1] == "set":
    settings.use_threads()
torch.ones(1 << 22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    a = torch.ones(1 << 22)
    b = torch.ones(1 << 22)
    del a, b
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_of_tensors_is_kept_for_the_next_ones() -> None:
    """Two of 16 MiB, a hundred times: pages that the kernel had to give."""
    given = {
        name: int(subprocess.run([sys.executable, "-c", FAULTS, name], capture_output=True, check=True).stdout)
        for name in ("set", "plain")
    }
    assert given["set"] * 5 < given["plain"]
