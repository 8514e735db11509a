"""A model in CTranslate2 says what it says here."""

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from mple import ctranslate2_export
from mple.checks import UserError
from mple.ctranslate2_export import export, main, names, options, write
from mple.data.vocabulary import WordVocabulary, load_vocabularies
from mple.decoding.beam import Beam
from mple.model.autoregressive import Autoregressive
from mple.trained import load
from mple.types import BLANK, BOS, EOS, MASK, PAD, UNK
from tests.fakes import VOCABULARY, autoregressive, contents, sources, tiny_size
from tests.runs import random_run, sentences

ctranslate2 = pytest.importorskip("ctranslate2")

WORDS = WordVocabulary([f"w{i}" for i in range(VOCABULARY - 6)])
LENGTHS = [1 + i % 11 for i in range(400)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {
        "at": random_run(root, "+experiment=at", "size=base"),
        "nat": random_run(root, "+experiment=vanilla_raw"),
    }


def opened(folder: Path, compute_type: str = "float32") -> "ctranslate2.Translator":
    return ctranslate2.Translator(str(folder), compute_type=compute_type, intra_threads=1)


def without_padding(tokens: torch.Tensor) -> list[list[int]]:
    return [[i for i in row if i not in (PAD, EOS)] for row in tokens.tolist()]


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("is_joint", [True, False])
def test_it_says_what_the_model_says(tmp_path: Path, is_joint: bool, norm: str) -> None:
    size = tiny_size(norm=norm, encoder_layers=2, max_positions=32)
    model = autoregressive(0, is_joint, norm=norm, encoder_layers=2, max_positions=32)
    write(model, size, (WORDS, WORDS), tmp_path / "model")
    translator = opened(tmp_path / "model")
    src_tokens = sources(LENGTHS)
    # one maximum for all, as CTranslate2 has it
    ours = without_padding(Beam(1, max_length_factor=0, max_length_offset=20)(model, src_tokens).tokens)
    called = names(WORDS)
    texts = [[called[i] for i in row] for row in without_padding(src_tokens)]
    found = translator.translate_batch(texts, beam_size=1, max_decoding_length=20)
    theirs = [[called.index(piece) for piece in result.hypotheses[0]] for result in found]
    assert len({tuple(text) for text in ours}) > 20  # there is something to agree on
    assert np.mean([a == b for a, b in zip(ours, theirs, strict=True)]) >= 0.99
    assert min(i for text in theirs for i in text) > 5

    # of any text it thinks what the model thinks, when the model may not say special symbols
    texts, tgt_tokens = texts[:20], contents(LENGTHS[:20], seed=9)
    said = translator.score_batch(texts, [[called[i] for i in row] for row in without_padding(tgt_tokens)])
    output = model.decode(model.prefixes(tgt_tokens), model.encode(src_tokens[:20]))
    logits = output.logits.clone()
    logits[:, :, [PAD, BOS, UNK, MASK, BLANK]] = -torch.inf
    labels = model.labels(tgt_tokens)
    log_probs = logits.log_softmax(-1).gather(2, labels.unsqueeze(2)).squeeze(2)
    for row, length, result in zip(log_probs, LENGTHS, said, strict=False):
        assert result.log_probs == pytest.approx(row[: length + 1].tolist(), abs=1e-4)


def test_a_run_becomes_a_folder_that_carries_its_vocabulary(runs: dict[str, Path], tmp_path: Path) -> None:
    main([f"run={runs['at']}", f"to={tmp_path / 'new' / 'model'}"])
    src, tgt = load_vocabularies(tmp_path / "new" / "model" / "vocabulary")
    trained = load(runs["at"])
    assert src.fingerprint == trained.src_vocabulary.fingerprint
    said = sentences(200, seed=5)
    ids = trained.encode(said)
    greedy = Beam(1, max_length_factor=0, max_length_offset=20)
    assert isinstance(trained.model, Autoregressive)
    ours = trained.texts(greedy(trained.model, trained.src_tokens(ids)).tokens)
    pieces = [src.pieces(sentence) for sentence in ids]
    found = opened(tmp_path / "new" / "model").translate_batch(pieces, beam_size=1, max_decoding_length=20)
    id_of = {piece: i for i, piece in enumerate(tgt.pieces(range(len(tgt))))}
    theirs = tgt.decode_all([[id_of[piece] for piece in result.hypotheses[0]] for result in found])
    assert np.mean([a == b for a, b in zip(ours, theirs, strict=True)]) >= 0.99


def test_the_example_runs_and_no_text_is_too_long_for_it(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export(runs["at"], tmp_path / "my_model")
    monkeypatch.chdir(tmp_path)
    assert load(runs["at"]).size.max_positions == 32
    assert ctranslate2_export.__doc__ is not None
    example = ctranslate2_export.__doc__.split("`vocabulary/`:\n")[1].split("\nThe source's eos")[0]
    given = {"ctranslate2": ctranslate2, "names": names, "load_vocabularies": load_vocabularies, "Path": Path}
    for text in ("mann", " ".join(["die katze sieht über einen hund"] * 20)):
        exec(textwrap.dedent(example).replace("Ein Mann schläft.", text), dict(given))
        assert capsys.readouterr().out.strip()


def test_int8_is_smaller_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    size = tiny_size(d_model=32, d_ff=128)
    model = autoregressive(0, d_model=32, d_ff=128)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for quantization in ("float32", "int8"):
        write(model, size, (WORDS, WORDS), tmp_path / quantization, quantization)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("int8", "float32")]
    assert sizes[0] < 0.7 * sizes[1]
    (result,) = opened(tmp_path / "int8", "int8").translate_batch([["w1", "w2"]], max_decoding_length=5)
    assert set(result.hypotheses[0]) <= set(WORDS.words)


def test_unk_is_said_only_where_the_run_allows_it(tmp_path: Path) -> None:
    model = autoregressive(1)
    with torch.no_grad():  # a model that prefers unk to everything
        model.decoder.norm.bias += 20 * model.decoder.embedding.tokens.weight[3]
    for allow_unk in (False, True):
        folder = tmp_path / str(allow_unk)
        write(model, tiny_size(), (WORDS, WORDS), folder, allow_unk=allow_unk)
        (result,) = opened(folder).translate_batch([["w1", "w2"]], beam_size=1, max_decoding_length=5)
        assert ("<unk>" in result.hypotheses[0]) == allow_unk


def test_every_id_has_a_name_of_its_own() -> None:
    assert names(WordVocabulary(["a", "<eos>", "b"])) == [
        *("<pad>", "<bos>", "<eos>", "<unk>", "<mask>", "<blank>"),
        *("a", "<eos>#7", "b"),
    ]


def test_what_cannot_be_exported(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"run must be autoregressive.*vanilla_raw seed 1 is a NAT"):
        export(runs["nat"], tmp_path / "nat")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(UserError, match=r"to must be a new or an empty folder"):
        export(runs["at"], tmp_path / "used")
    with pytest.raises(UserError, match=r"quantization must be one of float32, int8"):
        export(runs["at"], tmp_path / "new", "int4")
    monkeypatch.setattr(ctranslate2_export, "is_installed", lambda: False)
    with pytest.raises(UserError, match=r"^CTranslate2 must be installed.*pip install ctranslate2$"):
        export(runs["at"], tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["used"]  # not even a part of one


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert options(["run=a", "to=b=c", "quantization=int8"]) == ("a", "b=c", "int8")
    for wrong, said in (
        (["run=a"], "to must name a folder"),
        (["run=a", "to=b", "beam=5"], "an argument must be one of run=, to=, quantization=; got 'beam=5'"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    main([])
    assert json.dumps("quantization=int8")[1:-1] in capsys.readouterr().out
