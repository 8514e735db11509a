"""An autoregressive run as a model of CTranslate2, the fast engine that a user would pick for an AT.

    python -m mple.ctranslate2_export run=outputs/at_base/multi30k_de-en to=my_model
    python -m mple.ctranslate2_export run=RUN to=my_model quantization=int8

`to` then holds model.bin, config.json, CTranslate2's own list of tokens and our `vocabulary/`:

    src, tgt = load_vocabularies(Path("my_model/vocabulary"))    # of mple.data.vocabulary
    src_names, tgt_names = names(src), names(tgt)                # of mple.ctranslate2_export
    limit = 31                                                   # sizes.SIZE.max_positions of the run, less 1
    translator = ctranslate2.Translator("my_model")
    texts = [[src_names[i] for i in ids] for ids in src.encode(["Ein Mann schläft."])]
    (found,) = translator.translate_batch(
        texts, beam_size=5, max_input_length=limit, max_decoding_length=limit
    )
    print(tgt.decode_all([[tgt_names.index(name) for name in found.hypotheses[0]]])[0])

The source's eos is appended by the model. CTranslate2 does not know how many positions the model has: without
the two limits a longer text is an error of its own. It needs `pip install ctranslate2`.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from mple import checks
from mple.checks import UserError
from mple.command import guarded, key_values
from mple.data.vocabulary import Vocabulary
from mple.files import disk_may_fill
from mple.foreign import copy_folder
from mple.model.autoregressive import Autoregressive
from mple.model.transformer import Embedding, Size
from mple.trained import VOCABULARY, load
from mple.types import BLANK, BOS, EOS, MASK, PAD, SPECIAL_TOKENS, UNK

QUANTIZATIONS = ("float32", "int8")
INSTALL = "pip install ctranslate2"
_NEVER = (PAD, BOS, UNK, MASK, BLANK)  # what `Beam` does not say
_NO_CHANCE = -1e9  # a bias, finite so that no arithmetic makes it NaN


def is_installed() -> bool:
    try:
        import ctranslate2  # noqa: F401
    except ImportError:
        return False
    return True


def export(run: str | Path, to: str | Path, quantization: str = "float32") -> None:
    """Write the model of the autoregressive `run` to the folder `to`: all of it, or nothing.

    Special symbols are never said, as in `Beam`: a bias of the output layer forbids them (unk is allowed with
    the run's `decoding.allow_unk`). int8 is CTranslate2's quantisation of the matrices.

    Raises:
        UserError: `run` is not autoregressive or not finished, `to` is in use, or CTranslate2 is not
            installed.
    """
    checks.one_of("quantization", quantization, QUANTIZATIONS)
    to = Path(to).absolute()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"to must be a new or an empty folder; {to} holds other things")
    trained = load(run)
    if not isinstance(trained.model, Autoregressive):
        raise UserError(
            f"run must be autoregressive, for CTranslate2 decodes token by token; {trained.name} is a NAT"
        )
    with disk_may_fill(to), checks.writes("to", to):
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as temporary:
            made = Path(temporary) / "new"
            write(
                trained.model,
                trained.size,
                (trained.src_vocabulary, trained.tgt_vocabulary),
                made,
                quantization,
                bool(getattr(trained.decoding, "allow_unk", False)),
            )
            copy_folder(trained.folder / VOCABULARY, made / VOCABULARY)
            if to.exists():
                to.rmdir()
            made.rename(to)


def write(
    model: Autoregressive,
    size: Size,
    vocabularies: tuple[Vocabulary, Vocabulary],
    to: Path,
    quantization: str = "float32",
    allow_unk: bool = False,
) -> None:
    """Write `model` to the folder `to`, which is made; `vocabularies` are those of source and target.

    Raises:
        UserError: CTranslate2 is not installed.
    """
    if not is_installed():
        raise UserError(f"CTranslate2 must be installed for this; it is not: {INSTALL}")
    from ctranslate2.specs import TransformerSpec

    spec: Any = TransformerSpec.from_config(
        (size.encoder_layers, size.decoder_layers), size.num_heads, pre_norm=size.norm == "pre"
    )
    encoder, decoder = model.encoder, model.decoder
    _embedding(spec.encoder.embeddings[0], spec.encoder, encoder.embedding)
    _embedding(spec.decoder.embeddings, spec.decoder, decoder.embedding)
    if size.norm == "pre":
        _linear(spec.encoder.layer_norm, encoder.norm, "gamma", "beta")
        _linear(spec.decoder.layer_norm, decoder.norm, "gamma", "beta")
    for made, layer in zip(spec.encoder.layer, encoder.layers, strict=True):
        _attention(made.self_attention, layer.self_attention, layer.attend, True)
        _feed_forward(made.ffn, layer.feed_forward, layer.transform)
    for made, layer in zip(spec.decoder.layer, decoder.layers, strict=True):
        _attention(made.self_attention, layer.self_attention, layer.attend, True)
        _attention(made.attention, layer.cross_attention, layer.look, False)
        _feed_forward(made.ffn, layer.feed_forward, layer.transform)
    spec.decoder.projection.weight = spec.decoder.embeddings.weight
    spec.decoder.projection.bias = _forbidden(len(vocabularies[1]), allow_unk)

    for register, vocabulary in zip(
        (spec.register_source_vocabulary, spec.register_target_vocabulary), vocabularies, strict=True
    ):
        register(names(vocabulary))
    config = spec.config
    config.unk_token, config.bos_token, config.eos_token = (SPECIAL_TOKENS[i] for i in (UNK, BOS, EOS))
    config.decoder_start_token = config.bos_token
    config.add_source_eos = True
    config.layer_norm_epsilon = nn.LayerNorm(1).eps
    spec.validate()
    spec.optimize(quantization=None if quantization == "float32" else quantization)
    to.mkdir(parents=True)
    spec.save(str(to))


def names(vocabulary: Vocabulary) -> list[str]:
    """A name of its own for every id: its piece, with the id behind it where an earlier one is called so."""
    pieces = vocabulary.pieces(range(len(vocabulary)))
    first = {piece: i for i, piece in reversed(list(enumerate(pieces)))}
    return [piece if first[piece] == i else f"{piece}#{i}" for i, piece in enumerate(pieces)]


def _forbidden(entries: int, allow_unk: bool) -> np.ndarray:
    bias = np.zeros(entries, np.float32)
    bias[[i for i in _NEVER if not (allow_unk and i == UNK)]] = _NO_CHANCE
    return bias


# --- one part of the model each: ours -> CTranslate2's -------------------------------------------------


def _array(weight: Tensor) -> np.ndarray:
    """A copy: CTranslate2 quantises in place."""
    return weight.detach().float().cpu().numpy().copy()


def _linear(spec: Any, module: Any, weight: str = "weight", bias: str = "bias") -> None:
    setattr(spec, weight, _array(module.weight))
    setattr(spec, bias, _array(module.bias))


def _embedding(tokens: Any, side: Any, embedding: Embedding) -> None:
    """CTranslate2 too multiplies tokens by √d and then adds the positions."""
    tokens.weight = _array(embedding.tokens.weight)
    side.position_encodings.encodings = _array(embedding.positions.weight)


def _attention(spec: Any, attention: Any, residual: Any, is_self: bool) -> None:
    """Self-attention has one matrix for queries, keys and values; cross-attention one for the last two."""
    if is_self:
        parts = (attention.query, attention.key_value)
        spec.linear[0].weight = np.concatenate([_array(part.weight) for part in parts])
        spec.linear[0].bias = np.concatenate([_array(part.bias) for part in parts])
    else:
        _linear(spec.linear[0], attention.query)
        _linear(spec.linear[1], attention.key_value)
    _linear(spec.linear[-1], attention.output)
    _linear(spec.layer_norm, residual.norm, "gamma", "beta")


def _feed_forward(spec: Any, feed_forward: Any, residual: Any) -> None:
    _linear(spec.linear_0, feed_forward.inner)
    _linear(spec.linear_1, feed_forward.outer)
    _linear(spec.layer_norm, residual.norm, "gamma", "beta")


# --- the command ---------------------------------------------------------------------------------------


@guarded
def main(arguments: list[str]) -> None:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    run, to, quantization = options(arguments)
    export(run, to, quantization)
    print(f"in {to}")


def options(arguments: list[str]) -> tuple[str, str, str]:
    """run, to and quantization of `key=value` arguments.

    Raises:
        UserError: an unknown key, or a missing one.
    """
    given, _ = key_values(arguments, {"run": "", "to": "", "quantization": "float32"})
    for key in ("run", "to"):
        if not given[key]:
            raise UserError(f"{key} must name a folder ({key}=FOLDER); got none")
    return given["run"], given["to"], given["quantization"]


if __name__ == "__main__":
    main(sys.argv[1:])
