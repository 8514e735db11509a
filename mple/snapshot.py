"""The model's current predictions, as the E-step sees them: θ fixed, no gradient, computed when asked for.

    snapshot = Snapshot(model, encoder_out, batch.ids, batch.tgt_lengths, draws, step, total)
    snapshot.predictions            # argmax of log P(t_i | Z*, X), Z* the fully masked canvas: one pass
    snapshot.predictions            # no second pass
    snapshot.on(lengths)            # the same for canvases of other lengths (a T of another length than Y)
    snapshot.given(inputs)          # the same given some Z, with gradient: the M-step's own pass

Encoder states are shared with the training pass, and where they are given as a function they are computed at
the first use. Nothing runs until a strategy asks: plain MLE, KD and CMLM never look ahead.
"""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mple.backend import logits_of, most_probable, normalisers_and_most_probable
from mple.model.nat import NAT
from mple.randomness import Draws
from mple.types import PAD, DecoderInput, DecoderOutput, EncoderOutput


class Snapshot:
    """Lazy look-ahead of a NAT on canvases of `lengths`.

    encoder_out: the encoder's states, or what computes them, once, when they are first needed.
    step, total: the update and how many there will be, for schedules.
    draws: where every random choice of the E-step comes from.

    The look-ahead pass keeps the model's mode: while training, dropout is on, as in GLAT's reference code.
    """

    def __init__(
        self,
        model: NAT,
        encoder_out: EncoderOutput | Callable[[], EncoderOutput],
        ids: Int[Tensor, "B"],
        lengths: Int[Tensor, "B"],
        draws: Draws,
        step: int,
        total: int,
        output: DecoderOutput | None = None,
        inputs: DecoderInput | None = None,
    ) -> None:
        self.model, self.ids, self.lengths = model, ids, lengths
        self._encode = functools.cache(encoder_out) if callable(encoder_out) else lambda: encoder_out
        self.draws, self.step, self.total = draws, step, total
        self.inputs = model.blank(lengths) if inputs is None else inputs
        self._output = output
        self._has_gradient = False
        self._rows: tuple[Tensor, DecoderOutput, Tensor, Tensor] | None = None
        self._predictions: Tensor | None = None
        self._normaliser: Tensor | None = None
        self._last: Snapshot | None = None

    @property
    def encoder_out(self) -> EncoderOutput:
        return self._encode()

    @property
    def output(self) -> DecoderOutput:
        """The decoder's output under `inputs`; without gradient unless it came from `given`."""
        if self._output is None:
            with torch.no_grad():
                self._output = self.model.decode(self.inputs, self.encoder_out)
        return self._output

    @property
    def predictions(self) -> Int[Tensor, "B L"]:
        """The most probable token of every canvas position, `pad` outside the canvas."""
        if self._predictions is None:
            output = self.output
            self._predictions = most_probable(output.features, output.weight, self.inputs.is_canvas)
        return self._predictions

    def log_probs(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """log P(tokens_i | Z*, X) in nats (float32, none above 0), 0 outside the canvas; no gradient.

        Asked for before the predictions, the vocabulary is read once for both.
        """
        is_canvas = self.inputs.is_canvas
        found = torch.zeros(tokens.shape, device=tokens.device)
        with torch.no_grad():
            output = self.output
            if self._normaliser is None:
                self._normaliser, best = normalisers_and_most_probable(
                    output.features, output.weight, is_canvas
                )
                if self._predictions is None:
                    self._predictions = best
            said = logits_of(output.features[is_canvas], output.weight, tokens[is_canvas])
            found[is_canvas] = (said - self._normaliser[is_canvas]).clamp(max=0)
        return found

    def without_dropout(self) -> "Snapshot":
        """The same look-ahead with the decoder's dropout off: while training, a pass of its own. Encoder
        states are those of the training pass."""
        if not self.model.training:
            return self
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            with torch.no_grad():
                output = self.model.decode(self.inputs, self.encoder_out)
        finally:
            for module in training:
                module.training = True
        return self._copy(self.lengths, output, self.inputs)

    def decode(self, inputs: DecoderInput, reads: Bool[Tensor, "B L"] | None = None) -> DecoderOutput:
        """The M-step's pass, with gradient; not run twice when `given` has already run it on these inputs.

        reads: where the objective uses the features; None: everywhere.
        """
        if self._has_gradient and inputs is self.inputs and self._output is not None:
            return self._output
        return self.model.decode(inputs, self.encoder_out, reads)

    def given(self, inputs: DecoderInput) -> "Snapshot":
        """What the model says given Z. This Z is what is trained on, so the pass keeps its gradient."""
        found = self._copy(self.lengths, self.model.decode(inputs, self.encoder_out), inputs)
        found._has_gradient = True
        return found

    def on(self, lengths: Int[Tensor, "B"]) -> "Snapshot":
        """The look-ahead on canvases of `lengths`; a pass that `candidate_nll` made is used again."""
        if self._rows is not None:
            keys, output, normaliser, predictions = self._rows
            wanted = self._key(torch.arange(len(lengths), device=lengths.device), lengths)
            row = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
            if torch.equal(keys[row], wanted):  # else T has a length that no candidate has
                width = int(lengths.max())
                chosen = output.features.index_select(0, row)[:, :width]
                found = self._copy(lengths, DecoderOutput(chosen, output.weight))
                found._normaliser = normaliser.index_select(0, row)[:, :width]
                found._predictions = predictions.index_select(0, row)[:, :width]
                return found
        if torch.equal(lengths, self.lengths):
            return self
        if self._last is None or not torch.equal(lengths, self._last.lengths):
            self._last = self._copy(lengths)  # the target and the input ask for the same canvas in turn
        return self._last

    def candidate_nll(self, candidates: Int[Tensor, "B K T2"]) -> Float[Tensor, "B K"]:
        """−log P(Γ_k | Z*, X) in nats, summed over the content of each candidate, Z* fully masked.

        Candidates of one sentence that have the same length share a decoder pass, since their Z* is the same;
        identical candidates cost nothing more.
        """
        num_sentences, num_candidates, _ = candidates.shape
        lengths = (candidates != PAD).sum(-1)  # (B, K)
        sentence = torch.arange(num_sentences, device=candidates.device).unsqueeze(1).expand_as(lengths)
        keys, row = torch.unique(self._key(sentence, lengths), return_inverse=True)  # sorted; (B, K) -> row
        with torch.no_grad():
            inputs = self.model.blank(keys % _WIDTH)
            output = self.model.decode(inputs, self.encoder_out.rows(keys // _WIDTH))  # (U, L, D)
            normaliser, predictions = normalisers_and_most_probable(
                output.features, output.weight, inputs.is_canvas
            )
            self._rows = keys, output, normaliser, predictions  # glancing may ask for them
            is_content = candidates != PAD
            position = torch.arange(candidates.shape[-1], device=candidates.device)
            place = (row.unsqueeze(-1) * normaliser.shape[1] + position)[is_content]  # in (U, L), flat
            said = logits_of(output.features.flatten(0, 1)[place], output.weight, candidates[is_content])
            nll = normaliser.flatten()[place] - said
            summed = torch.zeros(num_sentences * num_candidates, device=nll.device)
            owner = torch.arange(summed.numel(), device=nll.device).view_as(lengths).unsqueeze(-1)
            summed.index_add_(0, owner.expand_as(candidates)[is_content], nll)
        return summed.view_as(lengths)

    def _key(self, sentence: Tensor, lengths: Tensor) -> Tensor:
        return sentence * _WIDTH + lengths

    def _copy(
        self, lengths: Tensor, output: DecoderOutput | None = None, inputs: DecoderInput | None = None
    ) -> "Snapshot":
        return Snapshot(
            self.model, self._encode, self.ids, lengths, self.draws, self.step, self.total, output, inputs
        )


_WIDTH = 1 << 20  # more than any canvas is long
