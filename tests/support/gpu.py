"""A mark for tests that need a GPU; they skip where there is none. Unless `CM3_DEVICE=cpu`, the whole suite uses it."""

import pytest
import torch

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
