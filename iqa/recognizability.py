"""How far an embedding lies from those of faces that nobody can recognise."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from iqa import SCORERS
from iqa._model import ModelScorer, check_base, read_fitted
from iqa.cr_fiqa import check_size

WHERE_FROM = (
    "fit one on the base: python tools/fit_scorer.py recognizability BASE RECORDS OUT.safetensors; "
    "the scorers 'feature_norm' and 'sharpness' need no file"
)


@SCORERS.register("recognizability")
class Recognizability(ModelScorer):
    """Cosine distance to the cluster of unrecognisable faces, where embeddings of poor ones meet; fitted for the base.

    1 - cosine to the cluster's centre, as the embedding recognizability score (Deng et al., arXiv 2106.04112) without
    its upper bound of 1. The paper's centre comes from clustering wild faces, ours from faces reduced to a few pixels.
    weights: .safetensors with `centre` (D,) and the base's hash, as tools/fit_scorer.py writes it; on another base it
        is an error. any_base: take a file that tells no base.
    mobilefacenet_y1 over 60 aligned faces reduced to 112, 56, 28, 14 and 7 pixels: 1.01, 1.01, 0.99, 0.69, 0.27. Costs
    a forward of the base.
    """

    name = "recognizability"

    def __init__(self, weights: str | None = None, any_base: bool = False) -> None:
        super().__init__()
        self.any_base = any_base
        self.range = (0.2, 1.1)
        tensors, self.fitted_on = read_fitted(weights, "recognizability", WHERE_FROM)
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        if shapes.keys() != {"centre"} or tensors["centre"].dim() != 1:
            raise ValueError(f"scorer 'recognizability': {weights} holds {shapes}; wanted centre (D,); {WHERE_FROM}")
        self.register_buffer("centre", F.normalize(tensors["centre"], dim=0))

    def _prepare(self, base: nn.Module) -> None:
        check_size(self.centre, base, self.name)
        check_base(base, self.fitted_on, self.name, self.any_base)

    def _rate(self, embedding: Tensor) -> Tensor:
        return 1 - F.normalize(embedding) @ self.centre


def centre_of(embedding: Tensor) -> Tensor:
    """Unit mean of the unit embeddings (N, D) of unrecognisable faces: (D,) float32."""
    return F.normalize(F.normalize(embedding.double()).mean(0), dim=0).float()
