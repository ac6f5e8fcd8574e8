"""The 3×3 convolution of wide networks. Shapes: B batch, C channels, O channels out, H W pixels."""

from torch import Tensor, nn

from models.layers import cpu_strips


class WideConv2d(nn.Conv2d):
    """A 3×3 convolution that keeps the size, with zeros outside."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return B×O×H×W of B×C×H×W."""
        if cpu_strips.use_strips(x, has_gradient=False) and cpu_strips.is_wide(x, self.weight):
            return cpu_strips.wide_convolution(x, self.weight, self.bias)
        return super().forward(x)
