"""Keyed references: found by their source in any order, compared by sacreBLEU, near-copies left out whole."""

import gzip
import json
import random
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import hydra
import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sacrebleu.metrics import BLEU

from mple.checks import UserError
from mple.evaluate import evaluate
from mple.evaluation.finished import Finished
from mple.evaluation.mple import MPLE, draw_targets
from mple.evaluation.ott2018 import Ott2018, Sentence, read
from mple.evaluation.references import Files, References
from tests.runs import _SRC, _TGT, CONF, random_run, write_corpus
from tests.test_evaluate import opened

COUNT = 10
REAL = Path(__file__).parents[3] / "shared" / "data" / "wmt14_references" / "wmt14-en-de.extra_refs.gz"
METRIC = BLEU(effective_order=True, smooth_method="exp", tokenize="13a")

Line = tuple[str, str]


def s(reference: str, hypothesis: str) -> float:
    return METRIC.sentence_score(hypothesis, [reference]).score


def long_sentences(seed: int, words: Sequence[str] = _TGT) -> list[str]:
    """Ten of 6 to 9 words; those of training have 5 at most."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(6, 9))) for _ in range(COUNT)]


TARGETS, R1, R2, R3 = (long_sentences(seed) for seed in (11, 12, 13, 14))
SOURCES, OWN = long_sentences(1, _SRC), long_sentences(2)
SOURCES[3] = SOURCES[3].replace(" ", "  ", 1).replace(" schläft", "\u00a0schläft")
SOURCES[7] = SOURCES[2]  # a source twice, with two targets


def write(path: Path, lines: Iterable[Line]) -> str:
    text = "".join(f"{key}\t{text}\n" for key, text in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def keyed(columns: dict[str, Sequence[str]]) -> list[Line]:
    """{"S": sources, "R1": texts, …} as lines S-1, R1-1, …, S-2, …"""
    count = len(columns["S"])
    return [(f"{name}-{k + 1}", texts[k]) for k in range(count) for name, texts in columns.items()]


def shuffled(lines: list[Line]) -> list[Line]:
    return random.Random(0).sample(lines, len(lines))


def corpus(root: Path) -> tuple[str, ...]:
    write_corpus(root)
    for name, texts in (("valid.de", SOURCES), ("valid.en", OWN)):
        (root / name).write_text("".join(f"{text}\n" for text in texts))
    return (
        "data=text",
        f"data.root={root}",
        "data.src_lang=de",
        "data.tgt_lang=en",
        "data.vocabulary.size=90",
    )


def new_run(root: Path) -> Path:
    return random_run(root, "+experiment=vanilla_raw", data=corpus(root / "corpus"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_run(tmp_path_factory.mktemp("ott2018"))


@pytest.fixture
def run(folder: Path) -> Finished:
    return opened(folder)


class TestRead:
    def test_every_kind_of_line(self, tmp_path: Path) -> None:
        lines = [("S-3", " ein  Hund\u00a0läuft "), ("R10-3", " a  dog "), ("T-12", "x"), ("T-3", "a cat")]
        lines += [("R2-3", ""), ("S-12", "zwei"), ("R01-3", "a\tb")]
        expected = [
            Sentence("ein Hund läuft", "a cat", {"R10": "a  dog", "R2": "", "R1": "a\tb"}),
            Sentence("zwei", "x"),
        ]
        for name in ("plain", "packed.gz"):
            assert read(Path(write(tmp_path / name, lines))) == expected

    def test_line_ends_and_a_byte_order_mark_are_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"\xef\xbb\xbfS-1\ta\r\nR1-1\tb\r\n")
        assert read(tmp_path / "x") == [Sentence("a", None, {"R1": "b"})]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("S-1\ta\nR1-1 b\n", "line 2 must be S-, T- or R<number>- .*; got no tab in 'R1-1 b'"),
            ("S-1\ta\n\n", "line 2 must be .*; got no tab in ''"),
            ("R-1\ta\n", "line 1 must be .*; got the key 'R-1'"),
            ("S1-1\ta\n", "got the key 'S1-1'"),
            ("S-1 \ta\n", "got the key 'S-1 '"),
            ("H-1\ta\n", "got the key 'H-1'"),
            ("S-x\ta\n", "got the key 'S-x'"),
            (f"{'x' * 50}\ta\n", f"got the key '{'x' * 40}'$"),
            ("S-1\ta\nR1-1\tb\nR1-1\tb\n", "line 3 must have a key of its own; R1-1 is that of line 2"),
            ("S-1\ta\nS-01\tb\n", "line 2 must have a key of its own; S-01 is that of line 1"),
            ("S-1\ta\nR3-2\tb\nT-2\tc\n", "line 2: R3-2 must have its source, a line S-2; got none"),
            ("T-4\ta\n", "line 1: T-4 must have its source, a line S-4; got none"),
            ("", "must have lines S-, T- or R<number>- .*; it has none"),
        ],
    )
    def test_errors_name_file_line_and_key(self, text: str, message: str, tmp_path: Path) -> None:
        path = tmp_path / "refs"
        path.write_text(text)
        for reading in (lambda: read(path), lambda: Ott2018(str(path))):
            with pytest.raises(UserError, match=message) as caught:
                reading()
            assert str(caught.value).startswith(str(path))

    def test_a_broken_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "latin").write_bytes(b"S-1\ta\nR1-1\t\xfc\n")
        with pytest.raises(UserError, match="latin, line 2 must be UTF-8; got byte 0xfc"):
            read(tmp_path / "latin")
        (tmp_path / "refs.gz").write_bytes(gzip.compress(b"S-1\ta\n")[:-4])
        with pytest.raises(UserError, match=r"refs\.gz must be a whole gzip file"):
            read(tmp_path / "refs.gz")


def test_it_is_sacrebleu_s_sentence_bleu(run: Finished, tmp_path: Path) -> None:
    one, two, three = list(R1), list(R2), list(R3)
    one[0] = OWN[0]  # says what the corpus says: a person wrote it all the same
    two[1] = one[1]  # two people wrote the same
    three[4] = ""
    columns = {"S": SOURCES[:6], "T": OWN, "R1": one, "R2": two, "R3": three}
    references = Ott2018(write(tmp_path / "refs.gz", keyed(columns)))
    assert isinstance(references, References)
    found = references.similarity(run, "valid", TARGETS)
    for row in range(6):
        several = [text for text in (one[row], two[row], three[row]) if text]
        if row != 2:
            assert found.values[row] == pytest.approx(np.mean([s(y, TARGETS[row]) for y in several]))
    assert np.isnan(found.values[[6, 8, 9]]).all()  # the file lacks them; row 7 has the source of row 2
    assert found.note == (
        "refs.gz has 7 of 10 sources, with near-copies of T if there are any: "
        "7 sentences, 2.9 references each"
    )
    assert not found.is_own
    exact = references.similarity(run, "valid", OWN)
    assert exact.values[0] == pytest.approx(np.mean([100, s(two[0], OWN[0]), s(three[0], OWN[0])]))


def test_neither_order_nor_numbers_matter(run: Finished, tmp_path: Path) -> None:
    columns = {"S": SOURCES, "T": OWN, "R1": R1, "R2": R2, "R3": R3}
    lines = keyed(columns)
    far = [(re.sub(r"-(\d+)", lambda m: f"-{900 - 7 * int(m[1])}", key), text) for key, text in lines]
    base = Ott2018(write(tmp_path / "refs", lines)).similarity(run, "valid", TARGETS)
    assert np.isfinite(base.values).all()
    for other in (shuffled(lines), lines[::-1], far):
        found = Ott2018(write(tmp_path / "refs", other)).similarity(run, "valid", TARGETS)
        np.testing.assert_allclose(found.values, base.values, atol=1e-9)
        assert found.note == base.note


def test_sources_match_but_for_white_space(run: Finished, tmp_path: Path) -> None:
    spread = ["\u00a0  ".join(source.split()) + " " for source in SOURCES[:5]]
    spread[4] = spread[4].capitalize() + "!"  # another text
    columns = {"S": spread, "R1": R1, "R2": R2}
    found = Ott2018(write(tmp_path / "refs", keyed(columns))).similarity(run, "valid", TARGETS)
    assert np.flatnonzero(np.isfinite(found.values)).tolist() == [0, 1, 2, 3, 7]
    assert found.note.startswith("refs has 5 of 10 sources")


def test_a_source_several_times_has_the_references_of_all(run: Finished, tmp_path: Path) -> None:
    """In the file: keys 3 and 8, of one reference each; in the split: rows 2 and 7, each with its own T."""
    lines = [("S-3", SOURCES[2]), ("R1-3", R1[2]), ("S-8", SOURCES[7]), ("R1-8", R1[7])]
    found = Ott2018(write(tmp_path / "refs", lines)).similarity(run, "valid", TARGETS)
    for row in (2, 7):
        assert found.values[row] == pytest.approx(np.mean([s(R1[k], TARGETS[row]) for k in (2, 7)]))
    assert found.values[2] != pytest.approx(found.values[7])
    assert found.note.endswith("2 sentences, 2.0 references each")


def test_sentences_with_few_references_are_left_out(run: Finished, tmp_path: Path) -> None:
    columns: dict[str, Sequence[str]] = {
        "S": SOURCES[:5],
        "R1": R1,
        "R2": ["", *R2[1:]],
        "R7": ["", "", *R3[2:]],
    }
    path = write(tmp_path / "refs", keyed(columns))
    # Key 3 has the source of rows 2 and 7.
    for least, rows in ((1, [0, 1, 2, 3, 4, 7]), (2, [1, 2, 3, 4, 7]), (3, [2, 3, 4, 7])):
        found = Ott2018(path, min_references=least).similarity(run, "valid", TARGETS)
        assert np.flatnonzero(np.isfinite(found.values)).tolist() == rows
    with pytest.raises(UserError, match=r"at least 4 references .*min_references\); none of 10 has them"):
        Ott2018(path, min_references=4).similarity(run, "valid", TARGETS)


COPY = [*OWN[:8], *R2[8:]]
SHORTER = [text.rsplit(" ", 1)[0] for text in OWN]  # S depends on which side is the reference
ONCE = [OWN[0], *R3[1:]]
FURTHER = ["anything else", "not in the split at all"]


class TestNearCopy:
    """R2 is T in most sentences and independent in two, R10 is T without its last word; R1 and R3 are
    independent, but R3 is T in one sentence. Sentences that the split lacks count in what is a near-copy, and
    those without T do not."""

    def lines(self) -> list[Line]:
        own = ["", *OWN[1:]]  # of the first sentence no T is known
        columns = {
            "S": [*SOURCES, *FURTHER],
            "T": [*own, *TARGETS[:2]],
            "R1": [*R1, *R2[:2]],
            "R2": [*COPY, *R3[:2]],
            "R3": [*ONCE, *R1[:2]],
            "R10": [*SHORTER, *TARGETS[:2]],
        }
        return shuffled(keyed(columns))

    def scores(self) -> dict[str, float]:
        """The mean S(T, R<i>), of the sentences with a T."""
        texts = {"R1": R1, "R2": COPY, "R3": ONCE, "R10": SHORTER}
        more = {"R1": R2[:2], "R2": R3[:2], "R3": R1[:2], "R10": TARGETS[:2]}
        pairs = {
            name: zip([*OWN[1:], *TARGETS[:2]], [*texts[name][1:], *more[name]], strict=True)
            for name in texts
        }
        return {name: float(np.mean([s(t, r) for t, r in pairs[name]])) for name in texts}

    def test_whole_references_are_left_out(self, run: Finished, tmp_path: Path) -> None:
        scores = self.scores()
        assert max(scores["R1"], scores["R3"]) < 55 < min(scores["R2"], scores["R10"])
        path = write(tmp_path / "refs", self.lines())
        found = Ott2018(path, near_copy=55).similarity(run, "valid", TARGETS)
        for row in set(range(COUNT)) - {2, 7}:
            several = [R1[row], ONCE[row]]  # not R2 where it is no copy; R3 also where it is one
            assert found.values[row] == pytest.approx(np.mean([s(y, TARGETS[row]) for y in several]))
        assert found.note == (
            f"refs has 10 of 10 sources, without near-copies: R2 (S {scores['R2']:.1f}), "
            f"R10 (S {scores['R10']:.1f}): 10 sentences, 2.4 references each"
        )
        swapped = np.mean([s(r, t) for t, r in zip(OWN[1:], SHORTER[1:], strict=True)] + [100, 100])
        assert f"{swapped:.1f}" not in found.note  # T is the reference

    def test_the_threshold_is_the_mean_score(self, run: Finished, tmp_path: Path) -> None:
        path, scores = write(tmp_path / "refs", self.lines()), self.scores()

        def left_out(near_copy: float | None) -> set[str]:
            note = Ott2018(path, near_copy=near_copy).similarity(run, "valid", TARGETS).note
            return {name for name in scores if f"{name} (S" in note}

        for score in sorted(scores.values())[1:]:
            assert left_out(score - 0.01) == {name for name in scores if scores[name] >= score}
            assert left_out(score + 0.01) == {name for name in scores if scores[name] > score}
        assert left_out(None) == left_out(100) == set()
        note = Ott2018(path, near_copy=100).similarity(run, "valid", TARGETS).note
        assert "without near-copies: there is none: 10 sentences" in note

    def test_a_copy_of_all_is_one_at_100(self, run: Finished, tmp_path: Path) -> None:
        path = write(tmp_path / "refs", keyed({"S": SOURCES, "T": OWN, "R1": R1, "R2": R2, "R3": OWN}))
        found = Ott2018(path, near_copy=100).similarity(run, "valid", TARGETS)
        assert "without near-copies: R3 (S 100.0)" in found.note
        alone = write(tmp_path / "alone", keyed({"S": SOURCES, "R1": R1, "R2": R2}))
        np.testing.assert_allclose(
            found.values, Ott2018(alone).similarity(run, "valid", TARGETS).values, atol=1e-9
        )

    def test_a_reference_that_no_t_is_there_for_is_kept(self, run: Finished, tmp_path: Path) -> None:
        lines = [line for line in keyed({"S": SOURCES, "T": OWN, "R1": OWN}) if line[0] != "T-1"]
        lines += [("R2-1", R2[0]), ("R3-1", R3[0])]
        found = Ott2018(write(tmp_path / "refs", lines), near_copy=90).similarity(run, "valid", TARGETS)
        assert found.values[0] == pytest.approx(np.mean([s(y, TARGETS[0]) for y in (R2[0], R3[0])]))
        assert np.isnan(found.values[1:]).all()

    def test_one_must_be_left_and_t_must_be_there(self, run: Finished, tmp_path: Path) -> None:
        path, lowest = write(tmp_path / "refs", self.lines()), min(self.scores().values())
        message = f"near_copy (BLEU) must be above {lowest:.1f}, the lowest S of an R<i> of {path} with T"
        with pytest.raises(UserError, match=f"{re.escape(message)}.*; got 0$"):
            Ott2018(path, near_copy=0).similarity(run, "valid", TARGETS)
        apart = write(tmp_path / "apart", keyed({"S": SOURCES, "T": OWN, "R1": ["nothing alike"] * COUNT}))
        with pytest.raises(UserError, match=r"must be above 0\.0, the lowest S"):  # S = 0 is 0 or more
            Ott2018(apart, near_copy=0).similarity(run, "valid", TARGETS)
        for own in ({}, {"T": [""] * COUNT}):
            path = write(tmp_path / "refs", keyed({"S": SOURCES, **own, "R1": R1, "R2": R2}))
            assert np.isfinite(Ott2018(path).similarity(run, "valid", TARGETS).values).all()
            with pytest.raises(UserError, match=r"near_copy=60 compares .* has no sentence with both"):
                Ott2018(path, near_copy=60).similarity(run, "valid", TARGETS)


def test_sources_that_were_trained_on_are_refused(tmp_path: Path) -> None:
    data = corpus(tmp_path / "corpus")
    train = (tmp_path / "corpus" / "train.de").read_text().splitlines()
    train[17] = SOURCES[2]
    (tmp_path / "corpus" / "train.de").write_text("".join(line + "\n" for line in train))
    run = opened(random_run(tmp_path, "+experiment=vanilla_raw", data=data))
    path = write(tmp_path / "refs", keyed({"S": SOURCES, "R1": R1, "R2": R2}))
    with pytest.raises(UserError, match=r"allow_leak=true; 2 of 10 are: line 3 .*, line 8"):
        Ott2018(path).similarity(run, "valid", TARGETS)
    found = Ott2018(path, allow_leak=True).similarity(run, "valid", TARGETS)
    assert "10 of 10 sources, 2 leaked sources," in found.note
    assert np.isfinite(found.values).all()


def test_a_file_of_another_split_is_refused(run: Finished, tmp_path: Path) -> None:
    first = "viele Wörter und " * 20
    path = write(tmp_path / "refs", keyed({"S": [first, "b"], "R1": R1, "R2": R2}))
    message = f"{path} must have sources of the split valid of text_de-en; it has none of its 10 (that begin "
    message += f"with {SOURCES[0][:60]!r}; those of the file with {first[:60]!r})"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        Ott2018(path).similarity(run, "valid", TARGETS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": None}, r"references\.path must name a file of lines S-, T- or R<number>- .*; got none"),
        ({"path": "nowhere"}, r"references\.path must name a file; there is no nowhere"),
        ({"path": "."}, r"references\.path must name a file; there is no \."),
        ({"min_references": 0}, r"references\.min_references must be a whole number of at least 1; got 0"),
        ({"near_copy": 101}, r"references\.near_copy \(BLEU\) must be a number from 0 to 100; got 101"),
        ({"near_copy": -1}, r"references\.near_copy .*; got -1"),
        ({"near_copy": float("nan")}, r"references\.near_copy .*; got nan"),
    ],
)
def test_settings(settings: dict, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "refs", keyed({"S": SOURCES, "R1": R1}))
    with pytest.raises(UserError, match=message):
        Ott2018(**{"path": path, **settings})


def test_the_configuration_has_the_defaults(tmp_path: Path) -> None:
    cfg = OmegaConf.load(CONF / "estimator" / "references" / "ott2018.yaml")
    cfg.path = write(tmp_path / "refs", keyed({"S": SOURCES, "R1": R1}))
    assert instantiate(cfg) == Ott2018(cfg.path)


class TestEvaluate:
    def measure(self, folder: Path, *settings: str) -> tuple[dict[str, float], Path]:
        """What `evaluate.py` found, and the report that it wrote."""
        kept = folder / "evaluations"
        before = {path: path.stat().st_mtime_ns for path in kept.glob("*")}
        opened(folder)
        overrides = [
            f"run={folder}",
            "estimator=mple",
            "estimator/references=ott2018",
            "device=cpu",
            *settings,
        ]
        found = evaluate(hydra.compose("evaluate", overrides), overrides)
        (report,) = [path for path in kept.iterdir() if path.stat().st_mtime_ns != before.get(path)]
        return found, report

    def test_l_mple_takes_them(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write(tmp_path / "refs.gz", keyed({"S": SOURCES[:6], "T": OWN, "R1": R1, "R2": R2, "R9": OWN}))
        found, report = self.measure(folder, f"estimator.references.path={path}")
        texts = draw_targets(opened(folder), "valid").texts
        known = {row: row for row in range(6)} | {7: 2}
        every = {row: np.mean([s(y[k], texts[row]) for y in (R1, R2, OWN)]) for row, k in known.items()}
        assert found["similarity"] == pytest.approx(np.mean(list(every.values())))
        assert found["target_loss_bits_per_token"] == pytest.approx(-0.2 * found["similarity"])
        text = json.loads(report.read_text())
        assert text["metrics"] == found
        assert text["settings"]["estimator"]["references"]["path"] == path
        (of_target, of_input) = text["notes"]
        assert of_target.startswith("L_target: refs.gz has 7 of 10 sources")
        assert of_input.startswith("L_input: 0 by definition")
        assert "refs.gz has 7 of 10 sources" in " ".join(capsys.readouterr().out.split())
        few, other = self.measure(
            folder, f"estimator.references.path={path}", "estimator.references.near_copy=60"
        )
        less = [np.mean([s(y[k], texts[row]) for y in (R1, R2)]) for row, k in known.items()]
        assert few["similarity"] == pytest.approx(np.mean(less))
        assert other != report
        direct = MPLE(references=Ott2018(path, near_copy=60))(opened(folder))
        assert direct == few

    def test_a_report_is_of_the_files_content(self, folder: Path, tmp_path: Path) -> None:
        """The same name where the file has moved, another where it says something else."""
        lines = keyed({"S": SOURCES, "R1": R1, "R2": R2})
        path = write(tmp_path / "refs", lines)
        base, report = self.measure(folder, f"estimator.references.path={path}")
        (tmp_path / "elsewhere").mkdir()
        moved = shutil.move(path, tmp_path / "elsewhere" / "renamed")
        again, same = self.measure(folder, f"estimator.references.path={moved}")
        assert (again, same) == (base, report)
        assert json.loads(same.read_text())["settings"]["estimator"]["references"]["path"] == str(moved)
        write(Path(moved), [*lines[:-1], ("R2-10", "quite another text")])
        changed, other = self.measure(folder, f"estimator.references.path={moved}")
        assert other != report
        assert changed["similarity"] != base["similarity"]
        assert json.loads(report.read_text())["metrics"] == base  # the old one is still there

    def test_without_a_file_nothing_is_opened(self, folder: Path) -> None:
        opened(folder)
        with pytest.raises(Exception, match=r"estimator\.references\.path must name a file of lines"):
            evaluate(
                hydra.compose("evaluate", ["run=nowhere", "estimator=mple", "estimator/references=ott2018"]),
                [],
            )

    def test_other_references_have_the_key_that_they_had(self, folder: Path) -> None:
        """A report with the data's own references names no inputs."""
        opened(folder)
        overrides = [f"run={folder}", "estimator=mple", "device=cpu"]
        evaluate(hydra.compose("evaluate", overrides), overrides)
        reports = [json.loads(path.read_text()) for path in (folder / "evaluations").iterdir()]
        (own,) = [report for report in reports if "Known" in str(report["settings"])]
        assert list(own["settings"]) == ["estimator"]


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_file(), reason=f"no {REAL}")
def test_the_file_of_ott_et_al(tmp_path: Path) -> None:
    """R9 is T verbatim in 47% of the sentences, S 75; the others in at most 7%, S 23 to 39."""
    found = read(REAL)
    assert len({sentence.source for sentence in found}) == len(found) == 500
    assert all(sentence.target and all(sentence.references.values()) for sentence in found)
    names = {f"R{i}" for i in range(1, 11)}
    assert all(sentence.references.keys() == names for sentence in found)
    same = {
        name: 100 * np.mean([one.references[name] == one.target for one in found]) for name in sorted(names)
    }
    similar = {
        name: float(np.mean([s(one.target or "", one.references[name]) for one in found])) for name in names
    }
    assert same.pop("R9") == pytest.approx(46.6)
    assert max(same.values()) == pytest.approx(7.2)
    assert similar.pop("R9") == pytest.approx(75.2, abs=0.05)
    assert (min(similar.values()), max(similar.values())) == pytest.approx((23.0, 38.5), abs=0.05)

    root = tmp_path / "corpus"
    data = corpus(root)  # the file's sentences are its test split
    for name, texts in (
        ("test.de", [one.source for one in found]),
        ("test.en", [one.target for one in found]),
    ):
        (root / name).write_text("".join(f"{text}\n" for text in texts))
    run = opened(random_run(tmp_path, "+experiment=vanilla_raw", data=data))
    own = run.data.text("test")[2]
    paths = []
    for name in names:
        paths.append(str(tmp_path / name))
        Path(paths[-1]).write_text("".join(f"{sentence.references[name]}\n" for sentence in found))
    files = Files(tuple(paths)).similarity(run, "test", own)
    assert files.note.endswith("500 sentences, 10.0 references each")
    assert -0.2 * files.values.mean() == pytest.approx(-6.387, abs=0.0005)
    for near_copy, left_out, loss, each in ((None, (), -6.39, "10.0"), (60, ("R9",), -5.43, "9.0")):
        similarity = Ott2018(str(REAL), near_copy=near_copy).similarity(run, "test", own)
        assert re.findall(r"(R\d+) \(S", similarity.note) == list(left_out)
        assert similarity.note.endswith(f"500 sentences, {each} references each")
        assert -0.2 * similarity.values.mean() == pytest.approx(loss, abs=0.005)
