"""A NAT as two ONNX graphs, for runtimes without PyTorch.

encoder.onnx   src_tokens (B, S)                                     -> states (B, S, D), lengths (B),
                                                                        length_log_probs (B, 2·max_offset + 1)
decoder.onnx   tokens (B, L), src_tokens (B, S), states (B, S, D)    -> logits (B, L, V)

Tokens are int64, the rest float32; sizes of batches, sources and canvases are free. `tokens` is Z: `<mask>`
at the positions to be said, tokens where Z reveals them, `<pad>` at the right. So every decoding of a NAT is
left to the caller: one pass, several lengths, mask-predict.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mple.checks import UserError
from mple.model.nat import NAT
from mple.types import BLANK, EOS, MASK, PAD, DecoderInput, EncoderOutput
from mple.vanilla_input.mask import Mask

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"

_OPSET = 17
_CONTENT = BLANK + 1
_SHAPES = (((1,), (1,)), ((3, 7, 5), (4, 1, 6)), ((9, 2), (9, 9)))  # source and canvas lengths of the check
_TOLERANCE = 1e-4


class Encode(nn.Module):
    def __init__(self, model: NAT) -> None:
        super().__init__()
        self.model = model

    def forward(self, src_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoder_out = self.model.encode(src_tokens)
        lengths, _ = self.model.length.predict(encoder_out)
        return encoder_out.states, lengths[:, 0], self.model.length.log_probs(encoder_out)


class Decode(nn.Module):
    def __init__(self, model: NAT) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, src_tokens: Tensor, states: Tensor) -> Tensor:
        revealed = (tokens != MASK) & (tokens != PAD)
        encoder_out = EncoderOutput(states, src_tokens == PAD)
        return self.model.decode(DecoderInput(tokens, revealed), encoder_out).logits


def write(model: NAT, folder: Path) -> None:
    """Write both graphs into an existing folder, and compare them with the model on several shapes.

    `model` must be in eval mode, on the CPU and in float32.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        UserError: the model's decoder copies the source, or a graph does not do what the model does.
    """
    import onnx  # noqa: F401  # needed by the exporter, and asked for before anything is written

    if not isinstance(model.vanilla_input, Mask):  # the copies use operations that ONNX lacks
        raise UserError(
            "ONNX graphs can be made of a model with vanilla_input=mask; "
            f"this one's is {type(model.vanilla_input).__name__}"
        )
    src_tokens, tokens = _example(model, (3, 5), (2, 4))
    encode, decode = Encode(model).eval(), Decode(model).eval()
    with torch.no_grad(), warnings.catch_warnings():
        # Tracing fixes what Python decides. There are two such places: whether there is padding to hide (the
        # example has some, so it always is hidden) and whether a sentence is too long (the runtime will say).
        warnings.simplefilter("ignore")
        _export(
            encode,
            (src_tokens,),
            folder / ENCODER,
            {"src_tokens": ("batch", "source")},
            {"states": ("batch", "source"), "lengths": ("batch",), "length_log_probs": ("batch",)},
        )
        _export(
            decode,
            (tokens, src_tokens, encode(src_tokens)[0]),
            folder / DECODER,
            {"tokens": ("batch", "canvas"), "src_tokens": ("batch", "source"), "states": ("batch", "source")},
            {"logits": ("batch", "canvas")},
        )
    _compare(model, folder)


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: dict[str, tuple[str, ...]],
    outputs: dict[str, tuple[str, ...]],
) -> None:
    torch.onnx.export(
        module,
        example,
        str(path),
        dynamo=False,
        opset_version=_OPSET,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes={name: dict(enumerate(axes)) for name, axes in (inputs | outputs).items()},
    )


def _example(model: NAT, src_lengths: tuple[int, ...], tgt_lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Sources of random content with eos, and canvases whose every third position is revealed."""
    generator = torch.Generator().manual_seed(0)
    entries = (
        model.encoder.embedding.tokens.num_embeddings,
        model.decoder.embedding.tokens.num_embeddings,
    )
    src_tokens = torch.full((len(src_lengths), max(src_lengths) + 1), PAD)
    tokens = torch.full((len(tgt_lengths), max(tgt_lengths)), PAD)
    for row, length in enumerate(src_lengths):
        src_tokens[row, :length] = torch.randint(_CONTENT, entries[0], (length,), generator=generator)
        src_tokens[row, length] = EOS
    for row, length in enumerate(tgt_lengths):
        shown = torch.randint(_CONTENT, entries[1], (length,), generator=generator)
        is_shown = torch.arange(length) % 3 == 2
        tokens[row, :length] = torch.where(is_shown, shown, MASK)
    return src_tokens, tokens


def _compare(model: NAT, folder: Path) -> None:
    import onnxruntime

    encoder, decoder = (
        onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        for name in (ENCODER, DECODER)
    )
    for src_lengths, tgt_lengths in _SHAPES:
        src_tokens, tokens = _example(model, src_lengths, tgt_lengths)
        with torch.no_grad():
            states, lengths, length_log_probs = Encode(model)(src_tokens)
            logits = Decode(model)(tokens, src_tokens, states)
        found = encoder.run(None, {"src_tokens": src_tokens.numpy()})
        inputs = {"tokens": tokens.numpy(), "src_tokens": src_tokens.numpy(), "states": found[0]}
        (said,) = decoder.run(None, inputs)
        real = src_tokens != PAD
        pairs = [(states[real], found[0][real.numpy()]), (length_log_probs, found[2])]
        pairs.append((logits[tokens != PAD], said[(tokens != PAD).numpy()]))
        worst = max(float(np.abs(a.numpy() - b).max() / max(1.0, float(a.abs().max()))) for a, b in pairs)
        if worst > _TOLERANCE or found[1].tolist() != lengths.tolist():
            raise UserError(f"the ONNX graphs must do what the model does; they differ by {worst:.1e}")
