"""IResNet: ResNet with pre-normalised blocks and PReLU, for 112 px faces (Deng et al. 2019, arXiv 1801.07698).

Key names are those of arcface_torch, so its published weights load strictly.
"""

from __future__ import annotations

from torch import Tensor, nn

from recognition.backbones import BACKBONES
from recognition.backbones._layers import BatchNorm2d, PReLU

WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """Norm, 3x3, norm, PReLU, 3x3 with the stride, norm, plus the shortcut: (B, inputs, H, W) -> (B, outputs, ...)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(outputs)
        self.prelu = PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """(B, 3, 112, 112) RGB in [-1, 1] -> (B, embedding_size), not normalised.

    blocks: number of blocks in the four stages. dropout: before the projection.
    """

    input_size = 112
    adapter_targets = ("**.conv[12]", "**.downsample.0", "fc")
    head_targets = ("fc",)

    def __init__(self, blocks: tuple[int, int, int, int], embedding_size: int = 512, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(WIDTHS[0])
        self.prelu = PReLU(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks[0])  # 56 x 56
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks[1])
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks[2])
        self.layer4 = _stage(WIDTHS[2], WIDTHS[3], blocks[3])  # 7 x 7
        self.bn2 = BatchNorm2d(WIDTHS[3])
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(WIDTHS[3] * 7 * 7, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        # A learned scale per axis would only undo the normalisation that follows every embedding.
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.1)
        self.checkpoint_blocks = tuple(n for n, m in self.named_modules() if isinstance(m, Block))

    def forward(self, image: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(image)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.dropout(self.bn2(x)).flatten(1)))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, outputs, 2), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


@BACKBONES.register("r18")
def r18(embedding_size: int = 512, dropout: float = 0.0) -> IResNet:
    """IResNet-18, 24.0 M parameters, 112 px."""
    return IResNet((2, 2, 2, 2), embedding_size, dropout)


@BACKBONES.register("r34")
def r34(embedding_size: int = 512, dropout: float = 0.0) -> IResNet:
    """IResNet-34, 34.1 M parameters, 112 px."""
    return IResNet((3, 4, 6, 3), embedding_size, dropout)


@BACKBONES.register("r50")
def r50(embedding_size: int = 512, dropout: float = 0.0) -> IResNet:
    """IResNet-50, 43.6 M parameters, 112 px."""
    return IResNet((3, 4, 14, 3), embedding_size, dropout)


@BACKBONES.register("r100")
def r100(embedding_size: int = 512, dropout: float = 0.0) -> IResNet:
    """IResNet-100, 65.2 M parameters, 112 px."""
    return IResNet((3, 13, 30, 3), embedding_size, dropout)


@BACKBONES.register("r200")
def r200(embedding_size: int = 512, dropout: float = 0.0) -> IResNet:
    """IResNet-200, 118.9 M parameters, 112 px."""
    return IResNet((6, 26, 60, 6), embedding_size, dropout)
