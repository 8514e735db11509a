"""Weights that a run starts from: those of another run at one of its updates (OaXE, App. E.4 of the paper).

    start: null                                        # from the seed
    start: {experiment: vanilla_kd, updates: 10000}    # that run, made first if it is missing
    start: outputs/.../last.ckpt                       # a file: last.ckpt, averaged.pt, best/*.pt

With the inverse square-root schedule nothing in a run without glancing depends on how long it will be, so
`updates: 10000` is the longer run at its update 10,000. Glancing's λ goes its whole way in those updates.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mple.checks import UserError
from mple.data.vocabulary import Vocabulary, load_vocabularies
from mple.run import read_weights

TABLES = ("model.encoder.embedding.tokens.weight", "model.decoder.embedding.tokens.weight")


def read(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint or of a file of weights; nothing in it is ever executed.

    Raises:
        UserError: there is no such file, or it holds no weights.
    """
    if not path.is_file():
        raise UserError(f"start must name a file of weights (last.ckpt, averaged.pt); there is no {path}")
    try:
        return read_weights(path)
    except UserError as error:
        raise UserError(f"start must name a file of weights; {error}") from error


def entries(weights: Mapping[str, Tensor], path: Path) -> tuple[int, int]:
    """Entries of the vocabularies of source and target that a module's weights speak.

    Raises:
        UserError: they are no translation model's.
    """
    for name in TABLES:
        if name not in weights:
            raise UserError(f"start must be of the same model; {path} has no {name}")
    return weights[TABLES[0]].shape[0], weights[TABLES[1]].shape[0]


def check_vocabulary(path: Path, src: Vocabulary, tgt: Vocabulary, key: str = "start") -> None:
    """Refuses weights whose run kept another vocabulary than that of the data, of the same size or not. Of a
    file outside a run's folder nothing is known. `key`: what errors name.

    Raises:
        UserError: the vocabularies differ.
    """
    for folder in path.resolve().parents[:2]:  # last.ckpt, best/*.pt
        if (folder / "vocabulary").is_dir():
            theirs = load_vocabularies(folder / "vocabulary")
            for side, own, other in zip(("source", "target"), (src, tgt), theirs, strict=True):
                if own.fingerprint != other.fingerprint:
                    raise UserError(
                        f"{key} must have the vocabulary of the data; {path} speaks another {side} "
                        f"vocabulary, that of {folder / 'vocabulary'}"
                    )


def check(weights: Mapping[str, Tensor], model: Mapping[str, Tensor], path: Path) -> None:
    """Refuses weights that do not fit, by the names and shapes of a `model`'s.

    Raises:
        UserError: they are those of another kind or size of model, or of another vocabulary.
    """
    tables = [name for name in model if name.endswith("embedding.tokens.weight")]
    for name in tables:
        if name in weights and weights[name].shape[0] != model[name].shape[0]:
            raise UserError(
                f"start must have the vocabulary of the data ({model[name].shape[0]} entries); "
                f"{path} has {weights[name].shape[0]}"
            )
    for name, value in model.items():
        if name not in weights:
            raise UserError(f"start must be of the same model; {path} has no {name}")
        if weights[name].shape != value.shape:
            wanted, came = tuple(value.shape), tuple(weights[name].shape)
            raise UserError(
                f"start must be of the same model size; {name} is {wanted}, in {path} it is {came}"
            )
        if weights[name].untyped_storage().nbytes() < weights[name].nbytes:  # a number repeated by strides
            raise UserError(f"start must be of the same model; {name} of {path} is not whole")
    for name in weights:
        if name not in model:
            raise UserError(f"start must be of the same model; {path} has {name} besides")
