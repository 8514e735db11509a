"""Raw-text sources: what they read, and what they refuse."""

import gzip
import io
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from mple.checks import UserError
from mple.data import text
from mple.data.grammar import Grammar
from mple.data.text import SPLITS, GrammarSource, HubDataset, LineFiles, TsvFile, lines_of

REAL = Path(__file__).parents[3] / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real corpora in {REAL}")


def write_lines(path: Path, lines: list[str]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 20), ("valid", 4), ("test", 3)):
        write_lines(tmp_path / f"{split}.de", [f"das Haus {i}" for i in range(count)])
        write_lines(tmp_path / f"{split}.en.gz", [f"the house {i}" for i in range(count)])
    return tmp_path


def test_line_files_pair_plain_and_gzip(folder: Path) -> None:
    source = LineFiles(str(folder), "de", "en")
    assert list(source.pairs("test")) == [(i, f"das Haus {i}", f"the house {i}") for i in range(3)]
    assert [source.size(split) for split in SPLITS] == [20, 4, 3]


def test_only_newlines_end_a_line(folder: Path) -> None:
    odd = ["a\rb", "a\u2028b", "a\x0bb\x85c"]  # all of them line breaks to str.splitlines or text mode
    write_lines(folder / "test.de", odd)
    assert [src for _, src, _ in LineFiles(str(folder), "de", "en").pairs("test")] == odd


def test_crlf_bom_outer_space_and_missing_last_newline(folder: Path) -> None:
    (folder / "test.de").write_bytes("\ufeffeins\r\n  zwei  drei \r\n\t".encode())
    source = LineFiles(str(folder), "de", "en")
    assert [src for _, src, _ in source.pairs("test")] == ["eins", "zwei  drei", ""]
    assert source.size("test") == 3


def test_different_line_counts_name_both(folder: Path) -> None:
    source = LineFiles(str(folder), "de", "en")
    for language, counts in (("de", (25, 20)), ("en", (20, 22))):
        path = folder / ("train.de" if language == "de" else "train.en.gz")
        before = path.read_bytes()
        write_lines(path, ["x"] * max(counts))
        with pytest.raises(UserError, match=rf"train\.de: {counts[0]}, .*train\.en\.gz: {counts[1]}"):
            list(source.pairs("train"))
        path.write_bytes(before)


def test_invalid_utf8_names_file_and_line(folder: Path) -> None:
    (folder / "test.de").write_bytes(b"gut\nsch\xf6n\ngut\n")
    with pytest.raises(UserError, match=r"test\.de, line 2 must be UTF-8; got byte 0xf6 as byte 4"):
        list(LineFiles(str(folder), "de", "en").pairs("test"))


def test_missing_file_split_language_folder(folder: Path) -> None:
    with pytest.raises(UserError, match=r"train\.fr or train\.fr\.gz; got .*train\.de, train\.en\.gz"):
        list(LineFiles(str(folder), "de", "fr").pairs("train"))
    with pytest.raises(UserError, match=r"dev\.de .*valid\.de"):
        list(LineFiles(str(folder), "de", "en", valid="dev").pairs("valid"))
    with pytest.raises(UserError, match="split must be one of test, train, valid; got 'dev'"):
        list(LineFiles(str(folder), "de", "en").pairs("dev"))
    with pytest.raises(UserError, match=r"data\.root must be an existing folder"):
        list(LineFiles(str(folder / "none"), "de", "en").pairs("train"))


def test_broken_gzip(folder: Path) -> None:
    path = folder / "test.en.gz"
    for broken in (path.read_bytes()[:-10], b"the house\n" * 3):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"test\.en\.gz must be a whole gzip file"):
            list(LineFiles(str(folder), "de", "en").pairs("test"))


def test_line_that_fills_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small `.gz` may hold a line of gigabytes; no more than the longest that is accepted is read of it."""
    monkeypatch.setattr(text, "MOST_LINE_BYTES", 1000)
    with gzip.open(tmp_path / "train.de.gz", "wb") as file:
        file.write(b"ein Hund\n" + b"x" * 1000 + b"\n")
    with pytest.raises(UserError, match=r"train\.de\.gz, line 2 must have at most 1,000 bytes"):
        list(lines_of(tmp_path / "train.de.gz"))
    write_lines(tmp_path / "valid.de", ["y" * 999])
    assert list(lines_of(tmp_path / "valid.de")) == ["y" * 999]


def test_inputs_follow_content_not_place(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = LineFiles(str(folder), "de", "en").inputs()
    moved = tmp_path_factory.mktemp("moved") / "corpus"
    folder.rename(moved)
    assert LineFiles(str(moved), "de", "en").inputs() == before
    write_lines(moved / "test.de", ["anders"] * 3)
    assert LineFiles(str(moved), "de", "en").inputs() != before


# --- TsvFile ---------------------------------------------------------------------------------------------


def write_tsv(path: Path) -> dict[str, set[str]]:
    """60 sources, a third of them with two or three targets, shuffled; returns the targets of each."""
    targets = {
        f"source {i}": {f"target {i} {j}" for j in range(1 + (i % 3 == 0) * (1 + i % 2))} for i in range(60)
    }
    lines = [f"{src}\t{tgt}\tsomeone" for src, tgts in targets.items() for tgt in sorted(tgts)]
    lines += lines[:5]  # exact repetitions are not further references
    random.Random(0).shuffle(lines)
    write_lines(path, lines)
    return targets


def test_tsv_splits_are_disjoint_complete_and_stable(tmp_path: Path) -> None:
    targets = write_tsv(tmp_path / "x.tsv")
    source = TsvFile(str(tmp_path / "x.tsv"), "en", "de", valid=7, test=9, multi_reference_test=True)
    found = {split: list(source.pairs(split)) for split in SPLITS}
    sources = {split: {src for _, src, _ in pairs} for split, pairs in found.items()}
    assert set.union(*sources.values()) == set(targets)
    assert sum(map(len, sources.values())) == 60
    assert [len(found["valid"]), len(found["test"])] == [7, 9]  # each source once
    assert all(len(targets[src]) > 1 for src in sources["test"])
    assert {(src, tgt) for _, src, tgt in found["train"]} == {
        (src, tgt) for src in sources["train"] for tgt in targets[src]
    }
    assert [source.size(split) for split in SPLITS] == [len(found[split]) for split in SPLITS]
    # The order of the lines does not matter to the split.
    lines = (tmp_path / "x.tsv").read_text().splitlines()
    write_lines(tmp_path / "y.tsv", sorted(lines))
    other = TsvFile(str(tmp_path / "y.tsv"), "en", "de", valid=7, test=9, multi_reference_test=True)
    assert {src for _, src, _ in other.pairs("test")} == sources["test"]


def test_data_without_a_root_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"data\.root must be an existing folder .*; got none"):
        list(LineFiles(None, "de", "en").pairs("train"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"data\.root must be an existing folder or file; got none"):
        list(TsvFile(None, "en", "de").pairs("train"))


def test_a_truncated_gzip_file_is_said_by_who_reads_it(tmp_path: Path) -> None:
    for language in ("de", "en"):
        whole = gzip.compress("".join(f"{i} {language}\n" for i in range(2000)).encode())
        (tmp_path / f"valid.{language}.gz").write_bytes(whole[: len(whole) // 2])
    source = LineFiles(str(tmp_path), "de", "en")
    assert source.size("valid") < 2000  # for a progress bar
    with pytest.raises(UserError, match="must be a whole gzip file"):
        list(source.pairs("valid"))


@pytest.mark.parametrize("name", ["en-de.tsv", "en-de.tsv.gz"])
def test_tsv_in_a_folder_is_found_by_its_languages(name: str, tmp_path: Path) -> None:
    lines = "".join(f"english {i}\tdeutsch {i}\n" for i in range(30)).encode()
    (tmp_path / name).write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
    (tmp_path / "en-zh.tsv").write_text("".join(f"english {i}\t中文 {i}\n" for i in range(30)))
    for src, tgt, first in (("en", "de", "english"), ("de", "en", "deutsch"), ("zh", "en", "中文")):
        for path in (tmp_path, tmp_path / ("en-zh.tsv" if src == "zh" else name)):
            pairs = list(TsvFile(str(path), src, tgt, valid=2, test=3).pairs("train"))
            assert len(pairs) == 25
            assert all(text.startswith(first) for _, text, _ in pairs)
            assert not any(text.startswith(first) for _, _, text in pairs)


def test_tsv_of_other_languages_is_refused_unless_its_columns_are_said(tmp_path: Path) -> None:
    (tmp_path / "en-de.tsv").write_text("".join(f"english {i}\tdeutsch {i}\n" for i in range(30)))
    with pytest.raises(UserError, match=r"must hold one of en-zh\.tsv, .*; got en-de\.tsv"):
        list(TsvFile(str(tmp_path), "en", "zh").pairs("train"))
    file = str(tmp_path / "en-de.tsv")
    with pytest.raises(
        UserError, match=r"must name a file of en and zh, or say its columns .* got en-de\.tsv"
    ):
        list(TsvFile(file, "en", "zh").pairs("train"))
    given = TsvFile(file, "en", "zh", src_column=1, tgt_column=0, valid=2, test=3)
    assert all(src.startswith("deutsch") for _, src, _ in given.pairs("train"))


def test_a_hub_data_set_that_breaks_in_its_middle_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(self: HubDataset, split: str) -> Iterator[dict[str, dict[str, str]]]:
        yield {"translation": {"en": "a", "de": "b"}}
        raise pa.ArrowInvalid("JSON parse error: Missing a comma\nin row 7")

    monkeypatch.setattr(HubDataset, "_load", rows)
    pairs = HubDataset(
        name="x/y", config=None, src_lang="en", tgt_lang="de", splits={"train": "train"}
    ).pairs("train")
    assert next(pairs) == (0, "a", "b")
    with pytest.raises(
        UserError, match=r"split train of x/y must be whole; got: JSON parse error: Missing a comma$"
    ):
        next(pairs)


def test_tsv_references(tmp_path: Path) -> None:
    targets = write_tsv(tmp_path / "x.tsv")
    source = TsvFile(str(tmp_path / "x.tsv"), "en", "de", valid=7, test=9, multi_reference_test=True)
    references = list(source.references("test"))
    assert [(line, src) for line, src, _ in references] == [
        (line, src) for line, src, _ in source.pairs("test")
    ]
    assert all(len(tgts) == len(set(tgts)) and set(tgts) == targets[src] for _, src, tgts in references)
    assert all(
        tgts[0] == tgt for (_, _, tgts), (_, _, tgt) in zip(references, source.pairs("test"), strict=True)
    )


def test_tsv_empty_sides_stay_in_training(tmp_path: Path) -> None:
    write_lines(tmp_path / "x.tsv", ["a\tb", "", "\tb", "c\t", "c\td", "e\tf", "", "g\th"])
    source = TsvFile(str(tmp_path / "x.tsv"), "en", "de", valid=1, test=2)
    assert all(src and tgt for split in ("valid", "test") for _, src, tgt in source.pairs(split))
    blank = [pair for pair in source.pairs("train") if not (pair[1] and pair[2])]
    assert blank == [(1, "", ""), (2, "", "b"), (3, "c", ""), (6, "", "")]


def test_tsv_errors(tmp_path: Path) -> None:
    write_tsv(tmp_path / "x.tsv")
    path = str(tmp_path / "x.tsv")
    with pytest.raises(UserError, match=r"60 distinct sources, 20 fit for test; got test=21"):
        list(TsvFile(path, "en", "de", valid=1, test=21, multi_reference_test=True).pairs("train"))
    with pytest.raises(
        UserError, match=r"data\.source\.test and data\.source\.valid must leave sources for training"
    ):
        list(TsvFile(path, "en", "de", valid=30, test=30).pairs("train"))
    with pytest.raises(UserError, match=r"x\.tsv, line 1 must have at least 6 tab-separated columns; got 3"):
        list(TsvFile(path, "en", "de", tgt_column=5, valid=1, test=1).pairs("train"))
    with pytest.raises(
        UserError, match=r"data\.root must be an existing folder or file; got .*there: x\.tsv"
    ):
        list(TsvFile(str(tmp_path / "z.tsv"), "en", "de").pairs("train"))
    with pytest.raises(UserError, match=r"data\.source\.valid"):
        TsvFile(path, "en", "de", valid=-1)


# --- HubDataset ------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """A copy of a hub data set: two configs, named splits, a translation column, one split in two shards."""
    root = tmp_path / "hub"
    head = ["---", "configs:"]
    for config in ("de-en", "cs-en"):
        head += [f"- config_name: {config}", "  data_files:"]
        for split in ("train", "validation", "test"):
            head += [f"  - split: {split}", f"    path: {config}/{split}-*"]
            rows = [
                {"translation": {config[:2]: f"{config} {split} {i} ", "en": f"text {i}"}} for i in range(4)
            ]
            parquet(root / config / f"{split}-00000-of-00002.parquet", rows[:2])
            parquet(root / config / f"{split}-00001-of-00002.parquet", rows[2:])
    (root / "README.md").write_text("\n".join([*head, "---", ""]))
    return root


@pytest.mark.usefixtures("offline")
class TestHub:
    def test_local_copy(self, hub_folder: Path) -> None:
        source = HubDataset("wmt/x", "de-en", "en", "de", root=str(hub_folder))
        expected = [(i, f"text {i}", f"de-en validation {i}") for i in range(4)]
        assert list(source.pairs("valid")) == expected
        before = source.inputs()
        parquet(
            hub_folder / "de-en" / "test-00000-of-00002.parquet", [{"translation": {"de": "x", "en": "y"}}]
        )
        assert source.inputs() != before

    def test_errors_name_what_there_is(self, hub_folder: Path) -> None:
        def read(config: str, src: str, **settings: object) -> None:
            list(HubDataset("x", config, src, "de", root=str(hub_folder), **settings).pairs("train"))  # type: ignore[arg-type]

        with pytest.raises(
            UserError, match=r"data\.source\.config='ro-en' .*'ro-en' not found.*de-en.*cs-en"
        ):
            read("ro-en", "en")
        with pytest.raises(
            UserError, match=r"data\.source\.splits\.train='dev' .*'train', 'validation', 'test'"
        ):
            read("de-en", "en", splits={"train": "dev"})
        with pytest.raises(UserError, match=r"data\.source\.src_lang must be one of de, en; got 'ro'"):
            read("de-en", "ro")
        with pytest.raises(UserError, match=r"data\.source\.field must be one of translation; got 'pair'"):
            read("de-en", "en", field="pair")

    def test_flat_jsonl(self, tmp_path: Path) -> None:
        for split in ("train", "validation", "test"):
            (tmp_path / f"{split}.jsonl").write_text('{"en": "a man", "de": "ein Mann"}\n')
        (tmp_path / "README.md").write_text("no front matter\n")
        source = HubDataset("multi30k", None, "en", "de", root=str(tmp_path), field=None)
        assert list(source.pairs("valid")) == [(0, "a man", "ein Mann")]

    def test_data_dir_of_a_converted_branch(self, tmp_path: Path) -> None:
        for split in ("train", "validation", "test"):
            rows = [{"translation": {"en": split, "de": "x"}}]
            parquet(tmp_path / "iwslt2017-de-en" / split / "0000.parquet", rows)
        source = HubDataset("IWSLT/x", None, "en", "de", root=str(tmp_path), data_dir="iwslt2017-de-en")
        assert [list(source.pairs(split)) for split in SPLITS] == [
            [(0, "train", "x")],
            [(0, "validation", "x")],
            [(0, "test", "x")],
        ]

    def test_plain_files_in_place_of_the_hub(self, folder: Path) -> None:
        source = HubDataset("wmt/x", "de-en", "de", "en", root=str(folder))
        plain = LineFiles(str(folder), "de", "en")
        assert list(source.pairs("valid")) == list(plain.pairs("valid"))
        assert source.inputs() == plain.inputs()
        assert source.size("train") == 20

    def test_no_network_says_which_files_would_do(self, tmp_path: Path) -> None:
        source = HubDataset("wmt/wmt14", "de-en", "en", "de")
        with pytest.raises(UserError, match=r"wmt/wmt14 could not be loaded .*data\.root=.*\{en,de\}"):
            list(source.pairs("train"))
        assert source.inputs()["hub"] == "wmt/wmt14"  # known without the network
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match=r"data\.root="):
            list(HubDataset("x", None, "en", "de", root=str(tmp_path / "empty")).pairs("train"))


# --- GrammarSource ---------------------------------------------------------------------------------------


def test_grammar_source() -> None:
    grammar = Grammar()
    source = GrammarSource(grammar, train=50, valid=10, test=8, seed=3)
    assert [len(list(source.pairs(split))) for split in SPLITS] == [50, 10, 8]
    assert list(source.pairs("train")) == list(source.pairs("train"))
    assert all(grammar.in_support(src, tgt) for _, src, tgt in source.pairs("valid"))
    assert source.inputs() == GrammarSource(grammar, train=50, valid=10, test=8, seed=3).inputs()
    assert source.inputs() != GrammarSource(grammar, train=50, valid=10, test=8, seed=4).inputs()
    with pytest.raises(UserError, match=r"data\.source\.valid"):
        GrammarSource(grammar, valid=0)


# --- real corpora ----------------------------------------------------------------------------------------


@pytest.mark.real
@needs_real
def test_multi30k() -> None:
    source = LineFiles(str(REAL / "multi30k"), "de", "en", valid="val", test="test_2016_flickr")
    for split, count in (("train", 29_000), ("valid", 1014), ("test", 1000)):
        assert sum(1 for _ in source.pairs(split)) == source.size(split) == count


@pytest.mark.real
@needs_real
def test_tatoeba() -> None:
    path = REAL / "tatoeba" / "en-de.tsv.gz"
    source = TsvFile(str(path), "en", "de", multi_reference_test=True)
    with gzip.open(path) as file:
        expected = [
            line.rstrip("\n").split("\t")[0] for line in io.TextIOWrapper(file, "utf-8", newline="\n")
        ]
    sources = {split: {src for _, src, _ in source.pairs(split)} for split in SPLITS}
    assert sum(map(len, sources.values())) == len(set(expected))
    assert len(sources["valid"]) == len(sources["test"]) == 2000
    assert min(len(tgts) for _, _, tgts in source.references("test")) >= 2


def test_columns_of_ids_are_refused(tmp_path: Path) -> None:
    """Tatoeba's own export has an id before each sentence."""
    path = tmp_path / "en-de.tsv"
    path.write_text("1000\tdog\t5000\tHund\n" * 30)
    source = TsvFile(str(tmp_path), "en", "de", valid=2, test=2)
    with pytest.raises(
        UserError, match=r"en-de\.tsv, line 1 must have a sentence in column 0; got a number"
    ) as caught:
        list(source.pairs("train"))
    assert "data.source.src_column" in str(caught.value)
    path.write_text("".join(f"dog {i}\t5000\tHund {i}\n" for i in range(30)))
    with pytest.raises(
        UserError, match=r"line 1 must have a sentence in column 1; .*data\.source\.tgt_column"
    ):
        list(source.pairs("train"))
    path.write_text("".join(f"1000\tdog {i}\t5000\tHund {i}\n" for i in range(30)))
    read = TsvFile(str(tmp_path), "en", "de", 1, 3, valid=2, test=2)
    assert next(read.pairs("train"))[1].startswith("dog")


def test_numbers_among_sentences_are_read(tmp_path: Path) -> None:
    lines = [f"{i}\tNummer {i}" if i % 3 == 0 else f"no. {i}\tNr. {i}" for i in range(30)]
    (tmp_path / "en-de.tsv").write_text("".join(f"{line}\n" for line in lines))
    assert len(list(TsvFile(str(tmp_path), "en", "de", valid=2, test=3).pairs("train"))) == 25


@pytest.mark.parametrize(("src", "tgt", "first"), [("en", "zh-TW", "english"), ("zh-TW", "en", "中文")])
def test_columns_of_codes_with_a_region(src: str, tgt: str, first: str, tmp_path: Path) -> None:
    (tmp_path / "en-zh-TW.tsv").write_text("".join(f"english {i}\t中文 {i}\n" for i in range(30)))
    pairs = TsvFile(str(tmp_path), src, tgt, valid=2, test=3).pairs("train")
    assert all(text.startswith(first) for _, text, _ in pairs)
