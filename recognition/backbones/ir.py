"""IR: the ResNets of AdaFace and CVLface for 112 px faces (Deng et al. 2019; Kim et al. 2022, arXiv 2204.00964).

Near relatives of IResNet that are not interchangeable with it: the first block of a stage of unchanged width only drops
pixels on its shortcut where IResNet convolves, and the embedding's norm learns neither scale nor shift. Key names are
those of AdaFace's net.py, so its published weights load strictly once their wrapper's prefix is off, which
recognition/weights does.
"""

from __future__ import annotations

from torch import Tensor, nn

from recognition.backbones import BACKBONES
from recognition.backbones._layers import BatchNorm2d, PReLU

SMALLEST = 7  # pixels a side after the last stage
REDUCTION = 16  # of channels inside squeeze-and-excitation


class Excitation(nn.Module):
    """Scales channels by what their means say (squeeze-and-excitation, Hu et al. 2018): (B, C, H, W), same back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // REDUCTION, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // REDUCTION, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Block(nn.Module):
    """Pre-normalised convolutions beside a shortcut: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride).

    narrow: three convolutions through a quarter of the channels, in place of two 3x3. excite: Excitation at the end.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, narrow: bool, excite: bool) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut_layer = None
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm2d(outputs))
        middle = outputs // 4 if narrow else outputs
        layers = [BatchNorm2d(inputs), _convolution(inputs, middle, 1 if narrow else 3)]
        if narrow:
            layers += [BatchNorm2d(middle), PReLU(middle), _convolution(middle, middle, 3)]
        layers += [BatchNorm2d(middle), PReLU(middle), _convolution(middle, outputs, 1 if narrow else 3, stride)]
        self.res_layer = nn.Sequential(*layers, BatchNorm2d(outputs))
        if excite:
            self.res_layer.add_module("se_block", Excitation(outputs))

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut_layer is not None:
            beside = self.shortcut_layer(x)
        else:
            beside = x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]
        return self.res_layer(x) + beside


class IR(nn.Module):
    """(B, 3, 112, 112) RGB in [-1, 1] -> (B, embedding_size), not normalised.

    blocks: number of blocks in the four stages, the first of each with stride 2. widths: channels of the stages.
    narrow, excite: as of Block. dropout: before the projection.
    """

    input_size = 112
    adapter_targets = ("**.res_layer.[147]", "**.shortcut_layer.0", "output_layer.3")
    head_targets = ("output_layer.3",)

    def __init__(
        self,
        blocks: tuple[int, ...],
        widths: tuple[int, ...] = (64, 128, 256, 512),
        embedding_size: int = 512,
        dropout: float = 0.4,
        narrow: bool = False,
        excite: bool = False,
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.input_layer = nn.Sequential(_convolution(3, 64, 3), BatchNorm2d(64), PReLU(64))
        body, inputs = [], 64
        for number, width in zip(blocks, widths, strict=True):
            for place in range(number):
                body.append(Block(inputs, width, 1 if place else 2, narrow, excite))
                inputs = width
        self.body = nn.Sequential(*body)
        self.output_layer = nn.Sequential(
            BatchNorm2d(inputs),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(inputs * SMALLEST**2, embedding_size),
            nn.BatchNorm1d(embedding_size, affine=False),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.checkpoint_blocks = tuple(n for n, m in self.named_modules() if isinstance(m, Block))

    def forward(self, image: Tensor) -> Tensor:
        return self.output_layer(self.body(self.input_layer(image)))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


@BACKBONES.register("ir_18")
def ir_18(embedding_size: int = 512, dropout: float = 0.4) -> IR:
    """IR-18 of AdaFace and CVLface, 112 px."""
    return IR((2, 2, 2, 2), embedding_size=embedding_size, dropout=dropout)


@BACKBONES.register("ir_34")
def ir_34(embedding_size: int = 512, dropout: float = 0.4) -> IR:
    """IR-34 of AdaFace, 112 px."""
    return IR((3, 4, 6, 3), embedding_size=embedding_size, dropout=dropout)


@BACKBONES.register("ir_50")
def ir_50(embedding_size: int = 512, dropout: float = 0.4) -> IR:
    """IR-50 of AdaFace and CVLface, 112 px."""
    return IR((3, 4, 14, 3), embedding_size=embedding_size, dropout=dropout)


@BACKBONES.register("ir_se_50")
def ir_se_50(embedding_size: int = 512, dropout: float = 0.4) -> IR:
    """IR-50 with squeeze-and-excitation (AdaFace), 112 px."""
    return IR((3, 4, 14, 3), embedding_size=embedding_size, dropout=dropout, excite=True)


@BACKBONES.register("ir_101")
def ir_101(embedding_size: int = 512, dropout: float = 0.4) -> IR:
    """IR-101 of AdaFace and CVLface, which AdaFace's tables call R100, 112 px."""
    return IR((3, 13, 30, 3), embedding_size=embedding_size, dropout=dropout)


@BACKBONES.register("ir_200")
def ir_200(embedding_size: int = 512, dropout: float = 0.4) -> IR:
    """IR-200 of AdaFace's net.py, three convolutions to a block, 112 px."""
    return IR((3, 24, 36, 3), (256, 512, 1024, 2048), embedding_size, dropout, narrow=True)
