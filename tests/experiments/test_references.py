"""Every item with an L_target says what the references were; of Multi30k, that they are no translations."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments import report
from experiments.paper_items import claims, figure5, figure6, references, table2, table3, table7, table8
from experiments.paper_items.item import Item, main
from experiments.paper_items.runs import Library, Study, Training
from tests.experiments import fake

MULTI30K = "multi30k_de-en"
ITEMS = (figure5.make, figure6.make, table2.make, table3.make, table7.make, table8.make)
CLAIMS = (claims.nearer, claims.trade_off, claims.correlates)
DESCRIBED = {
    "estimator": {"references": {"paths": [f"FOLDER/descriptions.val.{k}.en.gz" for k in range(1, 6)]}}
}


def said(outputs: Path, data: str) -> str:
    return references.of(Library(Study(outputs, data=data, root="ROOT")), [Training("vanilla_kd")])


def measured(outputs: Path, data: str, settings: Mapping[str, Any]) -> None:
    run = fake.make_run(outputs, "vanilla_kd", data=data, overrides=f"data={data.partition('_')[0]}")
    fake.evaluate(run, "mple", settings, similarity=9.0)


@pytest.mark.parametrize("make", ITEMS)
def test_items_on_multi30k_say_that_its_references_are_descriptions(
    make: Callable[[Library], Item], tmp_path: Path
) -> None:
    item = make(Library(Study(tmp_path, data=MULTI30K, root="ROOT")))
    (note,) = [note for note in item.notes if note.startswith(references.START)]
    assert "independent descriptions of the same image" in note
    assert "not translations" in note


@pytest.mark.parametrize("claim", CLAIMS)
def test_claims_on_multi30k_say_so_too(claim: Callable[[Library], claims.Verdict], tmp_path: Path) -> None:
    verdict = claim(Library(Study(tmp_path, data=MULTI30K, root="ROOT")))
    assert "independent descriptions of the same image" in verdict.caveat
    assert "not translations" in verdict.caveat
    assert "descriptions" not in claim(Library(Study(tmp_path))).caveat


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("grammar", "all targets that the grammar gives the source"),
        ("grammar_p05", "all targets that the grammar gives the source"),
        ("tatoeba_en-de", "the other targets that the corpus has for the same source"),
        ("wmt14_en_de", "the corpus' own single target"),
        ("multi30k_en-de", "not translations"),
    ],
)
def test_each_data_set_has_its_own(data: str, words: str, tmp_path: Path) -> None:
    assert words in said(tmp_path, data)


def test_what_was_measured_with_goes_before_what_would_be(tmp_path: Path) -> None:
    measured(
        tmp_path / "a", "wmt14_en_de", {"estimator": {"references": {"paths": ["x/refs.1", "x/refs.2"]}}}
    )
    assert said(tmp_path / "a", "wmt14_en_de").endswith("files beside the corpus (refs.1, refs.2).")
    measured(tmp_path / "b", MULTI30K, DESCRIBED)
    assert "not translations" in said(tmp_path / "b", MULTI30K)
    measured(tmp_path / "c", MULTI30K, {"estimator": {"references": {"paths": ["x/translations.en"]}}})
    assert "descriptions" not in said(tmp_path / "c", MULTI30K)
    assert "files beside the corpus (translations.en)" in said(tmp_path / "c", MULTI30K)


def test_rows_of_different_references_are_told_apart(tmp_path: Path) -> None:
    measured(tmp_path, MULTI30K, DESCRIBED)
    run = fake.make_run(tmp_path, "vanilla_raw", data=MULTI30K, overrides="data=multi30k")
    fake.evaluate(run, "mple", {"estimator": {"references": {"paths": ["x/new.en"]}}}, similarity=20.0)
    library = Library(Study(tmp_path, data=MULTI30K, root="ROOT"))
    text = references.of(library, [Training("vanilla_kd"), Training("vanilla_raw")])
    assert "not translations" in text
    assert "; of other rows, those in files beside the corpus (new.en)." in text


def test_it_is_printed_and_in_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(tmp_path, MULTI30K, DESCRIBED)
    arguments = ["--outputs", str(tmp_path), "--data", MULTI30K, "--root", "ROOT", "--to", str(tmp_path)]
    assert main(figure6.make, arguments) == 0
    assert references.DESCRIPTIONS in capsys.readouterr().out
    study = Study(tmp_path, data=MULTI30K, root="ROOT")
    report.write(study, tmp_path / "to" / "report.html")
    text = (tmp_path / "to" / f"report_{MULTI30K}.md").read_text(encoding="utf-8")
    section = text.partition("## Figure 6")[2].partition("\n## ")[0]
    assert references.DESCRIPTIONS in section
    claim = text.partition("The teacher's text is nearer")[2].partition("\n- ")[0]
    assert references.DESCRIPTIONS in claim
