"""What every scorer does with its input: look at it, turn it grey, read weights from a file."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import Tensor

from recognition.arrays import read_arrays

TOLERANCE = 1e-3  # of the range; a float image made as (x / 127.5 - 1 + 1) / 2 is off by 1e-7
LUMA = (0.299, 0.587, 0.114)  # of R, G, B: ITU-R BT.601, as OpenCV, PIL and BRISQUE's authors turn a picture grey


def check_images(image: Tensor, scorer: str) -> None:
    """ValueError unless image is (B, 3, H, W), floating, within [0, 1].

    A compiled or exported graph cannot look at values: there only the shape is checked.
    """
    if image.dim() != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ValueError(
            f"scorer '{scorer}' takes (B, 3, H, W) floating-point RGB in [0, 1], "
            f"got {tuple(image.shape)} {image.dtype}; turn uint8 images into image.float() / 255"
        )
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or image.numel() == 0:
        return
    low, high = torch.stack(torch.aminmax(image)).tolist()
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # NaN fails too
        raise ValueError(
            f"scorer '{scorer}' takes RGB in [0, 1], got values from {low:.4g} to {high:.4g}; "
            "turn a network's input in [-1, 1] into (image + 1) / 2"
        )


def full_precision(image: Tensor) -> contextlib.AbstractContextManager:
    """Computes in float32 inside an autocast region too: squares of grey levels overflow in float16."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return contextlib.nullcontext()
    return torch.autocast(image.device.type, enabled=False)


def luma(image: Tensor) -> Tensor:
    """(B, 3, H, W) RGB in [0, 1] -> (B, 1, H, W) float32 in [0, 255], not rounded."""
    red, green, blue = (255.0 * image.float()).split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def read_tensors(path: str | None, scorer: str, where_from: str) -> dict[str, Tensor]:
    """Named float32 tensors of a .safetensors or .npz file.

    path: None is an error that tells what is missing and `where_from`.
    """
    file = find_file(path, scorer, "weights", where_from)
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return {key: value.float() for key, value in load_file(file).items()}
    if file.suffix == ".npz":
        return {key: torch.from_numpy(array).float() for key, array in read_arrays(file).items()}
    raise ValueError(f"scorer '{scorer}' reads weights from .safetensors or .npz, got {file}")


def find_file(path: str | None, scorer: str, argument: str, where_from: str) -> Path:
    """The file itself; ValueError where none is named or none is there."""
    if path is None or not Path(path).is_file():
        got = "none is named" if path is None else f"there is no file {path}"
        raise ValueError(f"scorer '{scorer}' needs a file in its argument '{argument}', and {got}; {where_from}")
    return Path(path)
