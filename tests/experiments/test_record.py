"""Recorded runs: tables of a record are those of the runs, and what needs weights is trained again."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments import record, reproduce
from experiments.paper_items import claims, item, table1, table2, table3
from experiments.paper_items.runs import (
    COUNTS,
    MPLE,
    PREDICT,
    TRAIN,
    Finished,
    Library,
    Study,
    Training,
    sacrebleu_tokenizer,
    sentence_counts,
    total_correlation,
)
from tests.experiments import fake

SOURCES = ["a dog runs", "two men sit", "the red house", "an old man"]
REFERENCES = ["ein hund rennt im park", "zwei männer sitzen", "das rote haus am see", "ein alter mann"]


def texts(outputs: Path, name: str, lines: list[str]) -> Path:
    folder = fake.make_run(outputs, name)
    (folder / "hypotheses.test.txt").write_text("".join(f"{line}\n" for line in lines))
    (folder / "averaged.pt").write_bytes(b"weights")
    return folder


def recorded(outputs: Path, to: Path, *arguments: str) -> None:
    assert record.main(["--outputs", str(outputs), "--to", str(to), *arguments]) == 0


def test_items_of_a_record_are_those_of_the_runs(tmp_path: Path) -> None:
    outputs, to = tmp_path / "outputs", tmp_path / "records"
    fake.make_all(outputs)
    recorded(outputs, to)
    for make in (table1.make, table2.make, table3.make):
        of_runs, of_record = make(Library(Study(outputs))), make(Library(Study(to)))
        assert item.records(of_runs) == item.records(of_record)
        assert not of_record.missing


def test_no_text_and_no_weights_are_kept(tmp_path: Path) -> None:
    outputs, to = tmp_path / "outputs", tmp_path / "records"
    fake.prepare(outputs, SOURCES, REFERENCES)
    fake.evaluate(texts(outputs, "vanilla_kd", REFERENCES), "mple", similarity=3.0)
    recorded(outputs, to)
    names = {path.name.partition("-")[0] for path in to.rglob("*") if path.is_file()}
    assert names == {"metrics.json", "mple", COUNTS}
    assert not any(
        word.encode() in path.read_bytes() for word in ("hund", "haus") for path in to.rglob("*.json")
    )


def test_sentences_of_recorded_runs_are_still_compared(tmp_path: Path) -> None:
    outputs, to = tmp_path / "outputs", tmp_path / "records"
    fake.prepare(outputs, SOURCES, REFERENCES)
    texts(outputs, "vanilla_kd", REFERENCES)
    texts(outputs, "vanilla_raw", ["ein hund", "zwei hunde", "das haus", "ein mann"])
    of_runs = claims.better(Library(Study(outputs)), "", Training("vanilla_kd"), Training("vanilla_raw"))
    assert of_runs.interval is not None
    recorded(outputs, to)
    shutil.rmtree(outputs)
    of_record = claims.better(Library(Study(to)), "", Training("vanilla_kd"), Training("vanilla_raw"))
    assert of_record == of_runs


def test_what_is_recorded_is_not_made_again(tmp_path: Path) -> None:
    outputs, to, study = tmp_path / "outputs", tmp_path / "records", Study(tmp_path / "new")
    fake.make_all(outputs)
    recorded(outputs, to)
    left = reproduce.missing(Study(study.outputs, records=to))
    assert left
    assert all("figure1_" in str(entry) for entry in left)  # the only ones that make_all leaves out
    assert len(left) < len(reproduce.missing(study))


def test_a_run_that_was_made_again_goes_before_its_record_and_adds_to_it(tmp_path: Path) -> None:
    outputs, to = tmp_path / "outputs", tmp_path / "records"
    old = fake.make_run(outputs, "vanilla_kd", bleu=20.0)
    fake.evaluate(old, "mple", similarity=3.0)
    recorded(outputs, to)
    (run,) = Library(Study(outputs, records=to)).runs(Training("vanilla_kd"))
    assert (run.folder, run.has_weights) == (old, True)
    assert run.measured(MPLE) == {"similarity": 3.0}
    shutil.rmtree(old / "evaluations")
    fake.evaluate(old, "confidence", default_confidence_nats_per_token=-1.0)
    recorded(outputs, to)
    (run,) = Library(Study(to)).runs(Training("vanilla_kd"))
    assert run.measured(MPLE) == {"similarity": 3.0}
    assert len(list(run.folder.glob("evaluations/*"))) == 2
    shutil.rmtree(old)
    fake.make_run(outputs, "vanilla_kd", bleu=21.0)
    recorded(outputs, to)
    (run,) = Library(Study(to)).runs(Training("vanilla_kd"))
    assert run.record["test"]["tokenised_bleu"] == 21.0
    assert run.measured(MPLE) is None  # it spoke of other weights


def test_a_later_record_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs, to = tmp_path / "outputs", tmp_path / "records"
    fake.evaluate(fake.make_run(outputs, "vanilla_kd", bleu=20.0), "mple", similarity=3.0)
    recorded(outputs, to)
    shutil.rmtree(outputs)
    older = fake.make_run(outputs, "vanilla_kd", bleu=19.0)
    text = (older / "metrics.json").read_text()
    (older / "metrics.json").write_text(text.replace("2026-11-23", "2026-11-20"))
    capsys.readouterr()
    recorded(outputs, to)
    assert capsys.readouterr().out.splitlines() == [
        f"left alone, since a later run is recorded: {older}",
        f"recorded: 0 runs in {to}",
    ]
    (run,) = Library(Study(to)).runs(Training("vanilla_kd"))
    assert run.record["test"]["tokenised_bleu"] == 20.0
    assert run.measured(MPLE) == {"similarity": 3.0}


def test_what_needs_the_weights_of_a_record_is_trained_for(tmp_path: Path) -> None:
    outputs, to = tmp_path / "outputs", tmp_path / "records"
    fake.make_run(outputs, "vanilla_kd")
    recorded(outputs, to)
    library = Library(Study(tmp_path / "new", records=to))
    assert library.measured(Training("vanilla_kd"), MPLE) == []
    training, evaluation = library.missing
    assert training.stage == TRAIN
    assert "+experiment=vanilla_kd" in training.command
    assert f"run=$(echo {tmp_path / 'new'}/vanilla_kd/grammar/*/seed1)" in evaluation.command


def test_a_recorded_input_predictor_has_no_weights_either(tmp_path: Path) -> None:
    outputs, to, new = tmp_path / "outputs", tmp_path / "records", tmp_path / "new"
    run = fake.make_run(outputs, "cmlm")
    fake.predictor(run)
    fake.evaluate(run, "mple", similarity=3.0)
    recorded(outputs, to)
    library = Library(Study(new, records=to))
    table3.make(library)
    assert any(entry.stage == PREDICT and "/cmlm/" in str(entry) for entry in library.missing)
    fake.evaluate(run, "confidence", sampled_tokenised_bleu=3.0)
    recorded(outputs, to)
    library = Library(Study(new, records=to))
    table3.make(library)
    assert not any("/cmlm/" in str(entry) for entry in library.missing)


def test_where_the_data_lay_is_not_told_and_does_not_matter(tmp_path: Path) -> None:
    outputs, to = tmp_path / "outputs", tmp_path / "records"
    run = fake.make_run(
        outputs, "vanilla_kd", data="multi30k_de-en", overrides="data=multi30k data.root=/my/home"
    )
    paths = {"estimator": {"references": {"paths": ["/my/home/descriptions.1.en"]}}}
    fake.evaluate(run, "mple", paths, similarity=3.0)
    recorded(outputs, to)
    assert not any("/my/home" in path.read_text() for path in to.rglob("*.json"))
    for study in (Study(to, "multi30k_de-en"), Study(outputs, "multi30k_de-en", records=to)):
        (found,) = Library(study).measured(Training("vanilla_kd"), MPLE)
        assert found[1] == {"similarity": 3.0}
    (found,) = Library(Study(outputs, records=to)).all()
    assert found.recorded is not None
    recorded(outputs, to)  # again: it is the same run
    assert len(list(to.rglob("mple-*.json"))) == 1


@pytest.mark.parametrize("root", ["data", "multi30k", "multi30k_de-en", "/multi30k", "/data/grammar"])
def test_a_record_is_the_run_wherever_its_data_lay(root: str, tmp_path: Path) -> None:
    """Only the folder itself is hidden, not what is called like it."""
    outputs, to = tmp_path / "outputs", tmp_path / "records"
    words = f"data=multi30k data.root={root} note={root}-2"
    fake.make_run(outputs, "vanilla_kd", data="multi30k_de-en", overrides=words)
    recorded(outputs, to)
    (run,) = Library(Study(to, "multi30k_de-en")).all()
    is_hidden = root.startswith("/")
    assert run.data == "multi30k_de-en"
    assert run.override("data") == "multi30k"
    assert run.override("data.root") == ("FOLDER" if is_hidden else root)
    assert run.override("note") == f"{root}-2"


def test_nor_is_where_the_outputs_lay(tmp_path: Path) -> None:
    outputs, to = tmp_path / "outputs", tmp_path / "records"
    nat = fake.make_run(outputs, "vanilla_raw", overrides=f"outputs={outputs}")
    other = fake.make_run(outputs, "at_student", overrides=f"size=student outputs={outputs}")
    given = {"estimator": {"at": str(other)}}
    fake.evaluate(nat, "total_correlation", given, total_correlation_bits_per_token=1.5)
    recorded(outputs, to)
    assert not any(str(tmp_path) in path.read_text() for path in to.rglob("*.json"))
    (run,) = Library(Study(to)).runs(Training("vanilla_raw"))
    assert "outputs=outputs" in run.overrides
    library = Library(Study(to))
    found = table1.correlation(library, table1.datasets(library)[0])
    assert found is not None
    assert found.mean == 1.5


def test_a_record_of_other_weights_is_left_alone(tmp_path: Path) -> None:
    outputs, to = tmp_path / "outputs", tmp_path / "records"
    fake.evaluate(fake.make_run(outputs, "vanilla_kd", bleu=20.0), "mple", similarity=3.0)
    recorded(outputs, to)
    shutil.rmtree(outputs)
    fake.make_run(outputs, "vanilla_kd", bleu=25.0)
    (run,) = Library(Study(outputs, records=to)).runs(Training("vanilla_kd"))
    assert run.record["test"]["tokenised_bleu"] == 25.0
    assert run.measured(MPLE) is None


def test_a_measurement_beside_a_recorded_run_is_known_by_what_follows_the_outputs(tmp_path: Path) -> None:
    nat = fake.make_run(tmp_path, "vanilla_raw")
    other = fake.make_run(tmp_path, "at_student")
    fake.evaluate(nat, "total_correlation", {"estimator": {"at": "outputs/at_student"}}, x=1.0)
    (run,) = Library(Study(tmp_path)).runs(Training("vanilla_raw"))
    assert run.measured(total_correlation(other)) == {"x": 1.0}
    assert run.measured(total_correlation(fake.make_run(tmp_path, "at_base"))) is None


def test_only_one_data_set_and_nothing_to_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs, to = tmp_path / "outputs", tmp_path / "records"
    fake.make_run(outputs, "vanilla_kd")
    fake.make_run(outputs, "vanilla_kd", data="multi30k_de-en")
    recorded(outputs, to, "--data", "multi30k_de-en")
    assert [path.parts[-4] for path in to.rglob("metrics.json")] == ["multi30k_de-en"]
    assert record.main(["--outputs", str(tmp_path / "empty"), "--to", str(to)]) == 2
    assert capsys.readouterr().err == f"error: no finished run to record below {tmp_path / 'empty'}\n"


def test_counts_are_read_back(tmp_path: Path) -> None:
    outputs, to = tmp_path / "outputs", tmp_path / "records"
    fake.prepare(outputs, SOURCES, REFERENCES)
    texts(outputs, "vanilla_kd", REFERENCES[::-1])
    recorded(outputs, to)
    (own,), (kept,) = (Library(Study(folder)).all() for folder in (outputs, to))
    left, right = sentence_counts(own), sentence_counts(kept)
    assert left is not None
    assert right is not None
    assert np.array_equal(left, right)
    assert left.shape == (4, 10)


def test_counts_of_chinese_name_their_tokeniser(tmp_path: Path) -> None:
    """Counts that were recorded with 13a are not those of a run whose sacreBLEU has tok:zh."""
    path = tmp_path / COUNTS
    run = Finished(tmp_path, {"signatures": {"sacrebleu": "nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp"}})
    rows = np.arange(20).reshape(2, 10)
    np.savetxt(path, rows, fmt="%d", delimiter=",")
    assert sentence_counts(run) is None
    np.savetxt(path, rows, fmt="%d", delimiter=",", header="zh")
    assert np.array_equal(sentence_counts(run), rows)
    assert sacrebleu_tokenizer(run) == "zh"
    japanese = {"signatures": {"sacrebleu": "nrefs:1|tok:ja-mecab-0.996-IPA|smooth:exp"}}
    assert sacrebleu_tokenizer(Finished(tmp_path, japanese)) == "ja-mecab"


def test_link_in_a_run_is_not_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A record is kept in a repository, so what a link points to must not come into it."""
    folder = fake.make_run(tmp_path / "outputs", "glat_kd")
    (tmp_path / "secret.json").write_text('{"secret": 1}')
    (folder / "evaluations").mkdir(exist_ok=True)
    (folder / "evaluations" / "x-1.json").symlink_to(tmp_path / "secret.json")
    to = tmp_path / "records"
    assert record.main(["--outputs", str(tmp_path / "outputs"), "--to", str(to)]) != 0
    assert "x-1.json must be a file" in capsys.readouterr().err
    assert not list(to.rglob("x-1.json"))
