"""A model's arithmetic: matrix products in bfloat16 where the device has them, everything between in float32."""

import logging

import torch
from torch import nn

from pipeline.machine import cpu_multiplies_bfloat16, native_bfloat16

logger = logging.getLogger(__name__)


BFLOAT16_OUTPUT = ("intermediate.dense", "fc1", "c_fc", "gate_proj", "up_proj", "wi")
"""Endings of names of layers (BERT, ViT, CLIP, Llama, T5) whose output only passes an activation before the next
product, and stays bfloat16 on the way. Not so in attention: it would be 5 % faster, but neighbours in the batch would
then move a vector by 1e-5."""


class Bfloat16Linear(nn.Module):
    """`nn.Linear` whose product is computed in bfloat16, with float32 input and output.

    Sums between layers, norms and softmax stay in float32: that is where a plain `model.bfloat16()` loses accuracy.
    On a CPU the weight is put in the kernel's own order once instead of at each product, which saves 6 % of the time.

    Args:
        bfloat16_output: leave the output in bfloat16, see `BFLOAT16_OUTPUT`.
    """

    def __init__(self, linear: nn.Linear, *, bfloat16_output: bool = False) -> None:
        super().__init__()
        self.bfloat16_output = bfloat16_output
        weight, bias = linear.weight.detach().bfloat16(), linear.bias
        self.packed = weight.device.type == "cpu" and cpu_multiplies_bfloat16()
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        else:
            self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().bfloat16(), requires_grad=False)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) float32 to (…, out) float32, or bfloat16 if `bfloat16_output`."""
        product: torch.Tensor
        if self.packed:
            product = torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.weight, self.bias, "none", [None], "")
        else:
            product = nn.functional.linear(x.bfloat16(), self.weight, self.bias)
        return product if self.bfloat16_output else product.float()


class Bfloat16Pointwise(nn.Module):
    """A 1 × 1 convolution, which is a product over channels, in bfloat16 with float32 input and output."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution.bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in, height, width) float32 to (batch, out, height, width) float32."""
        return self.convolution(x.bfloat16()).float()  # type: ignore[no-any-return]


def prepare(model: nn.Module, dtype: str, device: torch.device) -> None:
    """Put `model` in inference mode on a device, with its products in `dtype`.

    On a processor without bfloat16 products they stay in float32: emulated ones are slower, and their rounding makes a
    vector depend on its neighbours in the batch. float32 means float32: TF32, torch's default for a GPU's convolutions,
    keeps only ten bits of mantissa and is switched off.
    Channels last is the order in which the convolution kernels work: twice as fast on the CPU for EfficientNet.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    model.eval().requires_grad_(False).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
    if dtype == "bfloat16" and native_bfloat16():
        _use_bfloat16_products(model)
    elif dtype == "bfloat16":
        logger.warning("this processor has no bfloat16 products: dtype=bfloat16 is computed in float32")


def _use_bfloat16_products(module: nn.Module, path: str = "") -> None:
    """Replace layers that are plain matrix products; wider convolutions gain nothing on a CPU and stay in float32."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            keeps = f"{path}{name}".endswith(BFLOAT16_OUTPUT)
            setattr(module, name, Bfloat16Linear(child, bfloat16_output=keeps))
        elif isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1):
            setattr(module, name, Bfloat16Pointwise(child))
        else:
            _use_bfloat16_products(child, f"{path}{name}.")
