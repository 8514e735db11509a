"""References: lined up with the sentences that are kept, compared by sacreBLEU, exact on the grammar."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from mple.checks import UserError
from mple.evaluation.finished import Finished
from mple.evaluation.references import Files, Known, References
from tests.runs import random_run, sentences, write_corpus
from tests.test_evaluate import opened

COUNT = 10  # sentences of the split
TARGETS = sentences(COUNT, seed=5, words=["man", "dog", "runs", "the", "over"])


def bleu(hypothesis: str, reference: str) -> float:
    return sacrebleu.sentence_bleu(hypothesis, [reference], tokenize="13a").score


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_run(tmp_path_factory.mktemp("references"), "+experiment=vanilla_raw")


@pytest.fixture
def run(folder: Path) -> Finished:
    return opened(folder)


def lines(path: Path, texts: list[str]) -> str:
    text = "".join(text + "\n" for text in texts)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def test_files_go_line_by_line_with_the_split(run: Finished, tmp_path: Path) -> None:
    own = run.data.text("valid")[2]
    one, two, three = (sentences(COUNT, seed=seed, words=["man", "dog", "sees", "the"]) for seed in (1, 2, 3))
    two[4] = own[4]  # an independent reference that equals the own target counts
    together = [f"{a}\t{b}" for a, b in zip(one, three, strict=True)]
    together[7] = ""
    files = Files((lines(tmp_path / "a", together), lines(tmp_path / "b.gz", two)), allow_leak=True)
    assert isinstance(files, References)
    found = files.similarity(run, "valid", TARGETS)
    for row in range(COUNT):
        references = [one[row], three[row], two[row]]
        if row == 7:
            assert np.isnan(found.values[row])  # a single one is left
            continue
        expected = np.mean([bleu(TARGETS[row], y) for y in references])
        assert found.values[row] == pytest.approx(expected, abs=1e-4)
    equal = sum(own[row] in (one[row], three[row], two[row]) for row in range(COUNT) if row != 7)
    assert f"own target among those of {equal} sentences" in found.note
    assert "9 sentences, 3.0 references each" in found.note
    assert "leaked" in found.note  # a source of a single word


@pytest.mark.parametrize(
    ("own_is_among_them", "expected"),
    [(False, (100 + 59.4604 + 0) / 3), (True, (59.4604 + 0) / 2)],
)
def test_equal_references_are_removed_only_where_own_is_among_them(
    own_is_among_them: bool, expected: float, tmp_path: Path
) -> None:
    """Independent references stay, whatever they equal; of the own target exactly one copy is removed."""
    root = write_corpus(tmp_path / "corpus")
    (root / "valid.de").write_text("ein hund mann\nder mann hund\n")
    (root / "valid.en").write_text("a b c d\na b c d\n")
    data = ["data=text", f"data.root={root}", "data.src_lang=de", "data.tgt_lang=en"]
    run = opened(random_run(tmp_path, "+experiment=vanilla_raw", data=[*data, "data.vocabulary.size=90"]))
    targets = run.data.text("valid")[2]
    assert targets == ["a b c d"] * 2
    paths = tuple(lines(tmp_path / f"r{k}", [y] * 2) for k, y in enumerate(("a b c d", "a b c e", "x y z w")))
    files = Files(paths, own_is_among_them=own_is_among_them, allow_leak=True)
    found = files.similarity(run, "valid", targets)
    assert found.values == pytest.approx([expected] * 2, abs=1e-3)
    place = "removed from" if own_is_among_them else "among"
    assert f"own target {place} those of 2 sentences" in found.note
    twice = Files((*paths, paths[0]), own_is_among_them=own_is_among_them, allow_leak=True)
    count = 4 - own_is_among_them
    assert f"{count:.1f} references each" in twice.similarity(run, "valid", targets).note


def test_a_file_of_another_length_is_refused(run: Finished, tmp_path: Path) -> None:
    short = lines(tmp_path / "short", TARGETS[:-1])
    with pytest.raises(UserError, match=rf"with the 10 lines of the split valid; {short} has 9"):
        Files((short,)).similarity(run, "valid", TARGETS)
    with pytest.raises(UserError, match="there is no"):
        Files((str(tmp_path / "none"),)).similarity(run, "valid", TARGETS)
    with pytest.raises(UserError, match="at least one file"):
        Files()
    with pytest.raises(UserError, match="none of 10 has them"):
        Files((lines(tmp_path / "one", TARGETS),), allow_leak=True).similarity(run, "valid", TARGETS)


def test_files_of_a_source_that_does_not_know_its_size(tmp_path: Path) -> None:
    """A folder of Parquet files or the like has to be read for that."""
    run = opened(random_run(tmp_path, "+experiment=vanilla_raw", data=hub_layout(tmp_path / "hub")))
    assert run.job.source.size("valid") is None
    texts = [sentences(COUNT, seed=seed, words=["a", "dog", "runs"]) for seed in (1, 2)]
    fit = Files(
        [lines(tmp_path / f"fit{k}", some) for k, some in enumerate(texts)], "descriptions", False, 1, True
    )
    assert fit.similarity(run, "valid", TARGETS).note.startswith("descriptions in 2 files")
    for count in (COUNT - 1, COUNT + 1):
        path = lines(tmp_path / str(count), sentences(count, words=["a", "dog"]))
        with pytest.raises(UserError, match=rf"with the 10 lines of the split valid; {path} has {count}"):
            Files((path,)).similarity(run, "valid", TARGETS)


def hub_layout(root: Path) -> tuple[str, ...]:
    """The overrides that read a corpus in the hub's layout, with a configuration and JSON lines."""
    root.mkdir()
    splits = {"train": 300, "validation": COUNT, "test": COUNT}
    files = "".join(f"      - {{split: {name}, path: {name}.jsonl}}\n" for name in splits)
    (root / "README.md").write_text(f"---\nconfigs:\n  - config_name: de-en\n    data_files:\n{files}---\n")
    for seed, (name, count) in enumerate(splits.items()):
        pairs = zip(sentences(count, seed), sentences(count, seed + 9), strict=True)
        rows = (json.dumps({"translation": {"de": src, "en": tgt}}) + "\n" for src, tgt in pairs)
        (root / f"{name}.jsonl").write_text("".join(rows))
    return ("data=wmt14_en_de", f"data.root={root}", "data.vocabulary.size=90", "budget=mini")


def test_a_report_is_of_the_files_content(run: Finished, tmp_path: Path) -> None:
    paths = [lines(tmp_path / "a", TARGETS), lines(tmp_path / "b", TARGETS)]
    before = Files(paths).inputs()
    lines(tmp_path / "b", TARGETS[::-1])
    assert Files(paths).inputs() != before
    lines(tmp_path / "b", TARGETS)
    assert Files(paths).inputs() == before


def test_sources_that_were_trained_on_are_refused(tmp_path: Path) -> None:
    folder = random_run(tmp_path, "+experiment=vanilla_raw")
    train = (tmp_path / "corpus" / "train.de").read_text().splitlines()
    run = opened(folder)
    trained = run.data.text("valid")[1][2]
    train[17] = trained
    (tmp_path / "corpus" / "train.de").write_text("".join(line + "\n" for line in train))
    paths = tuple(lines(tmp_path / f"r{k}", sentences(COUNT, seed=k, words=["a", "b"])) for k in (1, 2))
    with pytest.raises(UserError, match=r"must not be sources of training .*line 3"):
        Files(paths).similarity(run, "valid", TARGETS)
    assert "leaked" in Files(paths, allow_leak=True).similarity(run, "valid", TARGETS).note


def test_without_others_it_is_the_corpus_own(run: Finished) -> None:
    own = run.data.text("valid")[2]
    found = Known().similarity(run, "valid", TARGETS)
    assert found.values.tolist() == pytest.approx(
        [bleu(t, y) for t, y in zip(TARGETS, own, strict=True)], abs=1e-4
    )
    assert Known().similarity(run, "valid", own).values.tolist() == pytest.approx([100.0] * COUNT)


def test_the_grammar_gives_the_expectation(tmp_path: Path) -> None:
    sizes = [f"data.source.{split}={count}" for split, count in (("train", 40), ("valid", 6), ("test", 6))]
    run = opened(random_run(tmp_path, "+experiment=vanilla_raw", data=("data=grammar", *sizes)))
    _, sources, own = run.data.text("valid")
    grammar = run.job.source.grammar
    found = Known().similarity(run, "valid", own)
    for row, source in enumerate(sources):
        table = grammar.targets(source)
        expected = sum(
            p * sacrebleu.sentence_bleu(own[row], [y], tokenize="none").score for y, p in table.items()
        )
        assert found.values[row] == pytest.approx(expected, abs=1e-3)
    with pytest.raises(UserError, match="estimator/references=known"):
        Files((lines(tmp_path / "x", own),)).similarity(run, "valid", own)


def test_other_targets_of_a_table_are_references(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    pairs = [
        (f"satz {i}", f"sentence {i} {tail}") for i in range(60) for tail in ("a b", "c d e")[: 1 + i % 2]
    ]
    path.write_text("".join(f"{src}\t{tgt}\n" for src, tgt in pairs))
    data = ("data=tatoeba", f"data.root={path}", "data.source.valid=10", "data.source.test=10")
    run = opened(random_run(tmp_path, "+experiment=vanilla_raw", data=(*data, "data.vocabulary.size=60")))
    _, sources, own = run.data.text("valid")
    found = Known().similarity(run, "valid", own)
    for row, source in enumerate(sources):
        others = [tgt for src, tgt in pairs if src == source and tgt != own[row]]
        if others:
            assert found.values[row] == pytest.approx(bleu(own[row], others[0]), abs=1e-4)
        else:
            assert np.isnan(found.values[row])
