"""Attention copy: every canvas position shows the source words that it has learned to look at (App. E.5).

    x_i = Σ_j softmax_j((W p_i) · (w_j + p'_j)) √D w_j

p_i embeds position i of the canvas, w_j and p'_j word j of the source and its position.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mple import checks
from mple.types import EncoderOutput
from mple.vanilla_input import mixed, rank, source_of


class AttentionCopy(nn.Module):
    """One head, no scaling of the dot product, and one matrix of its own (W, without bias).

    Source: the code of GLAT (Qian et al., 2021a). There word embeddings carry no factor √D; ours do, so the
    keys are made without it (position and word weigh alike, the softmax is as sharp as there) and the values
    with it (a copied word is as large as a revealed one). Other differences: content tokens only; positions
    are added and dropout is applied once, before the first layer (there again before each).

    Raises:
        UserError: `d_model` is not a whole number of at least 1.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        checks.whole("vanilla_input.d_model", d_model, 1, high=1 << 15)
        self.query = nn.Linear(d_model, d_model, bias=False)
        nn.init.xavier_uniform_(self.query.weight)

    def forward(
        self, lengths: Int[Tensor, "B"], encoder_out: EncoderOutput, positions: Float[Tensor, "L D"]
    ) -> Float[Tensor, "B L D"]:
        source = source_of(encoder_out)
        # As a lookup: the gradient of an index is added up by all threads at once, in no fixed order.
        places = functional.embedding(rank(source), source.positions)  # (B, S, D)
        keys = source.words / source.words.shape[-1] ** 0.5 + places
        return mixed(torch.matmul(self.query(positions), keys.transpose(1, 2)), source)
