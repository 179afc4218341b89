"""How a model's arithmetic is done: the dtype policy, and a batch a core."""

import logging

import torch
from torch import nn

from pipeline.machine import cpu_multiplies_bfloat16, device, native_bfloat16

logger = logging.getLogger(__name__)


HANDED_ON = ("intermediate.dense", "fc1", "c_fc", "gate_proj", "up_proj", "wi")
"""Endings of names of layers (BERT, ViT, CLIP, Llama, T5) that only an activation reads, and then the next product:
between the two, bfloat16 stays bfloat16. Not so in attention: 5 % faster, but neighbours then move a vector by 1e-5."""


class Bfloat16Linear(nn.Module):
    """`nn.Linear` whose product is taken in bfloat16, with float32 at both ends.

    Sums between layers, norms and softmax stay in float32: there a plain `model.bfloat16()` loses its accuracy.
    On a CPU the weight is put in the kernel's own order once, not at each product: 6 % sooner.
    """

    def __init__(self, linear: nn.Linear, *, hand_on: bool = False) -> None:
        super().__init__()
        self.hand_on = hand_on
        weight, bias = linear.weight.detach().bfloat16(), linear.bias
        self.packed = weight.device.type == "cpu" and cpu_multiplies_bfloat16()
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        else:
            self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().bfloat16(), requires_grad=False)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out), float32; bfloat16 where it is handed on, see `HANDED_ON`."""
        product: torch.Tensor
        if self.packed:
            product = torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.weight, self.bias, "none", [None], "")
        else:
            product = nn.functional.linear(x.bfloat16(), self.weight, self.bias)
        return product if self.hand_on else product.float()


class Bfloat16Pointwise(nn.Module):
    """A 1 × 1 convolution, which is a product over channels, in bfloat16 with float32 at both ends."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution.bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in, height, width) float32 to (batch, out, height, width) float32."""
        return self.convolution(x.bfloat16()).float()  # type: ignore[no-any-return]


def prepare(model: nn.Module, dtype: str) -> None:
    """Put `model` in inference mode on this process's device, its products in `dtype`.

    Where the processor has no bfloat16 products they stay in float32: emulated, they are slower, and their rounding
    makes a vector depend on its neighbours in the batch. And float32 is float32: a GPU's convolutions are not left to
    TF32, torch's default, which keeps ten bits of mantissa.
    Channels last is the order the convolution kernels work in: twice as fast on the CPU for EfficientNet.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    model.eval().requires_grad_(False).to(device())
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
    if dtype == "bfloat16" and native_bfloat16():
        _take_products_in_bfloat16(model)
    elif dtype == "bfloat16":
        logger.warning("this processor has no bfloat16 products: dtype=bfloat16 is computed in float32")


def _take_products_in_bfloat16(module: nn.Module, path: str = "") -> None:
    """Replace what is a plain matrix product; wider convolutions gain nothing from it on a CPU and keep float32."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, Bfloat16Linear(child, hand_on=f"{path}{name}".endswith(HANDED_ON)))
        elif isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1):
            setattr(module, name, Bfloat16Pointwise(child))
        else:
            _take_products_in_bfloat16(child, f"{path}{name}.")
