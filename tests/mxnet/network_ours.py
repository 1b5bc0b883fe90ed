"""Run in the project's environment: the network that mxnet wrote to FOLDER, by our names and in our range."""

import sys
from pathlib import Path

import numpy as np
import torch
from cases import EMBEDDING, UNITS, WIDTHS

from recognition.backbones import BACKBONES, iresnet
from recognition.weights import load_strictly, read_weights

LARGEST = 1e-4  # difference, of the largest magnitude


def main() -> None:
    folder = Path(sys.argv[1])
    read = read_weights(folder / "model-0000.params")
    assert read.card["backbone"] == "r18" and read.card["arguments"] == {"embedding_size": EMBEDDING}, read.card
    assert UNITS == (2, 2, 2, 2), "r18's"
    iresnet.WIDTHS = WIDTHS
    network = BACKBONES.create("r18", **read.card["arguments"]).eval()
    load_strictly(network, read.tensors, "mxnet's")
    pictures = torch.from_numpy(np.load(folder / "pictures.npy")).float()
    wanted = np.load(folder / "embeddings.npy")
    with torch.no_grad():
        got = network(pictures / 127.5 - 1).numpy()
    apart = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert apart <= LARGEST, f"network: embeddings differ by {apart:.1e} of the largest"
    print(f"network: embeddings differ by {apart:.1e} of the largest", file=sys.stderr)
    print(len(wanted))


if __name__ == "__main__":
    main()
