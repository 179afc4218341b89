"""bfloat16 products: the plain ones, whatever order a kernel wants its weights in."""

import pytest
import torch

from pipeline.encoders.bfloat16 import Bfloat16Linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 512])
def test_a_packed_product_is_the_plain_one(bias: bool, rows: int) -> None:
    linear = torch.nn.Linear(48, 80, bias=bias)
    ours = Bfloat16Linear(linear)
    x = torch.randn(2, rows, 48)
    plain = linear.bfloat16()(x.bfloat16()).float()
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), plain, rtol=2**-7, atol=1e-6)  # a bit of bfloat16: AMX sums differently
