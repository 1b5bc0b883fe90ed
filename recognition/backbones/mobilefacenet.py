"""MobileFaceNet (Chen et al. 2018): InsightFace's MXNet "y1", arcface_torch's wider relatives, and a small one.

All are one network: inverted bottlenecks, a global depth-wise convolution and a projection. Key names are those of
arcface_torch, so its published weights load strictly; the MXNet names of "y1" are mapped on reading.
"""

from __future__ import annotations

from torch import Tensor, nn

from recognition.backbones import BACKBONES
from recognition.backbones._layers import BatchNorm2d, PReLU


class Stack(nn.Module):
    """Layers in a row, with the input added at the end where `residual`."""

    def __init__(self, *layers: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.residual else y


class Bottleneck(Stack):
    """1x1 up to `middle` channels, depth-wise 3x3, 1x1 down: (B, inputs, H, W) -> (B, outputs, H / stride, ...)."""

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int, eps: float, residual: bool = False) -> None:
        super().__init__(
            _convolution(inputs, middle, eps=eps),
            _convolution(middle, middle, 3, stride, padding=1, groups=middle, eps=eps),
            _convolution(middle, outputs, activation=False, eps=eps),
            residual=residual,
        )


class MobileFaceNet(nn.Module):
    """(B, 3, 112, 112) RGB in [-1, 1] -> (B, embedding_size), not normalised.

    width: channels of the first stage; the later ones have twice as many.
    middle: channels inside the bottlenecks of stage 2 (its entry included), stage 3, the entry of stage 4, stage 4.
    blocks: residual bottlenecks of the four stages; a single one in the first is a plain depth-wise convolution.
    first_groups: groups of that convolution.
    last: channels before the projection.
    eps: of the batch norms but for the last one, whose eps is embedding_eps and whose scale is fixed to 1.
    input_scale: what a published network's own input scaling leaves over after (x - 127.5) / 127.5.
    """

    input_size = 112

    def __init__(
        self,
        embedding_size: int = 512,
        width: int = 128,
        middle: tuple[int, int, int, int] = (128, 256, 512, 256),
        blocks: tuple[int, int, int, int] = (1, 4, 6, 2),
        first_groups: int = 64,
        last: int = 512,
        projection_bias: bool = False,
        eps: float = 1e-5,
        embedding_eps: float = 1e-5,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.input_scale = input_scale
        wide = 2 * width
        if blocks[0] == 1:
            first = _convolution(width, width, 3, padding=1, groups=first_groups, eps=eps)
        else:
            first = _residual(width, middle[0], blocks[0], eps)
        self.layers = nn.ModuleList(
            [
                _convolution(3, width, 3, 2, padding=1, eps=eps),  # 56 x 56
                first,
                Bottleneck(width, middle[0], width, 2, eps),  # 28 x 28
                _residual(width, middle[0], blocks[1], eps),
                Bottleneck(width, middle[1], wide, 2, eps),  # 14 x 14
                _residual(wide, middle[1], blocks[2], eps),
                Bottleneck(wide, middle[2], wide, 2, eps),  # 7 x 7
                _residual(wide, middle[3], blocks[3], eps),
            ]
        )
        self.conv_sep = _convolution(wide, last, eps=eps)
        self.features = Stack(
            _convolution(last, last, 7, groups=last, activation=False, eps=eps),
            nn.Flatten(),
            nn.Linear(last, embedding_size, bias=projection_bias),
            nn.BatchNorm1d(embedding_size, eps=embedding_eps),
        )
        self.apply(_initialise)
        # A learned scale per axis would only undo the normalisation that follows every embedding.
        self.features.layers[3].weight.requires_grad_(False)
        self.head_targets = ("features.layers.2",)
        pointwise = (n for n, m in self.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
        self.adapter_targets = (*pointwise, *self.head_targets)
        self.checkpoint_blocks = tuple(n for n, m in self.named_modules() if isinstance(m, Bottleneck))

    def forward(self, image: Tensor) -> Tensor:
        x = image if self.input_scale == 1.0 else image * self.input_scale
        for layer in self.layers:
            x = layer(x)
        return self.features(self.conv_sep(x))


def _convolution(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    activation: bool = True,
    eps: float = 1e-5,
) -> Stack:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        BatchNorm2d(outputs, eps=eps),
    ]
    if activation:
        layers.append(PReLU(outputs))
    return Stack(*layers)


def _residual(channels: int, middle: int, blocks: int, eps: float) -> Stack:
    return Stack(*(Bottleneck(channels, middle, channels, 1, eps, residual=True) for _ in range(blocks)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@BACKBONES.register("mbf")
def mbf(embedding_size: int = 512) -> MobileFaceNet:
    """MobileFaceNet of double width, 2.0 M parameters, 112 px (arcface_torch)."""
    return MobileFaceNet(embedding_size)


@BACKBONES.register("mbf_large")
def mbf_large(embedding_size: int = 512) -> MobileFaceNet:
    """MobileFaceNet of fourfold width and double depth, 112 px (arcface_torch)."""
    return MobileFaceNet(embedding_size, width=256, blocks=(2, 8, 12, 4))


@BACKBONES.register("mobilefacenet_y1")
def mobilefacenet_y1(embedding_size: int = 128) -> MobileFaceNet:
    """MobileFaceNet at its published width, 1.0 M parameters, 112 px (InsightFace's MXNet "y1")."""
    return MobileFaceNet(
        embedding_size,
        width=64,
        projection_bias=True,
        eps=1e-3,
        embedding_eps=2e-5,
        input_scale=127.5 / 128,  # its graph divides by 128, not 127.5; without this embeddings are 0.3 % off
    )


@BACKBONES.register("mobilefacenet_nano")
def mobilefacenet_nano(embedding_size: int = 128) -> MobileFaceNet:
    """MobileFaceNet at two thirds of its published width, under 3 MB in float32, 112 px."""
    return MobileFaceNet(
        embedding_size, width=48, middle=(96, 192, 384, 192), first_groups=48, last=384, projection_bias=True
    )
