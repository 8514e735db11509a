"""Table 5: the ATs that are searched, those at the ends of the range, and the paper's seven."""

import json
from pathlib import Path

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from experiments.paper_items import table5
from experiments.paper_items.item import Item, paper_table
from experiments.paper_items.runs import Library, Study
from mple.launch import Job
from tests.experiments import fake

CONF = Path(__file__).parents[2] / "conf"
ROW = "Grammar, modes 0.50"


def made(outputs: Path, bleu: float) -> Item:
    """The NAT of 1000 parameters and this BLEU beside ATs of 500 (BLEU 20), 1500 (30) and 3000 (40)."""
    fake.make_run(outputs, "vanilla_raw", bleu=bleu, parameters=1000)
    for size, score, parameters in (("tiny", 20.0, 500), ("small", 30.0, 1500), ("base", 40.0, 3000)):
        fake.make_run(outputs, f"at_{size}", bleu=score, parameters=parameters, overrides=f"size={size}")
    return table5.make(Library(Study(outputs)))


def mean(item: Item, column: str) -> float | None:
    number = item.cell(ROW, column).ours
    return None if number is None else number.mean


@pytest.mark.parametrize(
    ("bleu", "sizes", "scores"),
    [
        (25.0, (50, 150), (20, 30)),
        (30.0, (50, 150), (20, 30)),  # as good counts
        (35.0, (150, 300), (30, 40)),
        (15.0, (0, 50), (None, 20)),
        (45.0, (300, float("inf")), (40, None)),
    ],
)
def test_the_two_sizes_around_the_nat_and_their_bleu(
    bleu: float, sizes: tuple[float, float], scores: tuple[float | None, float | None], tmp_path: Path
) -> None:
    item = made(tmp_path, bleu)
    assert (mean(item, table5.LOW), mean(item, table5.HIGH)) == sizes
    assert (mean(item, table5.BLEU_LOW), mean(item, table5.BLEU_HIGH)) == scores
    of = [run.record["experiment"] for line in item.lines if line.label == ROW for run in line.runs]
    shown = {20: "at_tiny", 30: "at_small", 40: "at_base"}
    assert of == ["vanilla_raw", *(shown[int(score)] for score in scores if score is not None)]


def test_bleu_of_the_ats_has_its_spread(tmp_path: Path) -> None:
    for seed, bleu in ((1, 20.0), (2, 22.0)):
        fake.make_run(tmp_path, "at_tiny", seed, bleu=bleu, parameters=500, overrides="size=tiny")
    fake.make_run(tmp_path, "vanilla_raw", bleu=25.0)
    number = table5.make(Library(Study(tmp_path))).cell(ROW, table5.BLEU_LOW).ours
    assert number is not None
    assert number.values == {1: 20.0, 2: 22.0}


def test_the_papers_numbers_stand_beside_ours(tmp_path: Path) -> None:
    """Its BLEU_AT is a range, of the ATs at the ends of its range of sizes: 4.60 ~ 11.88 around 11.79."""
    item = table5.make(Library(Study(tmp_path, data="multi30k_de-en", root="ROOT")))
    own = [item.cell("multi30k_de-en", column).paper for column in table5.COLUMNS]
    assert own == [2.50, 2.1, 3.2, 11.79, 4.60, 11.88]
    other = [item.cell("Synthetic A", column).paper for column in table5.COLUMNS]
    assert other == [0.92, 27.3, 100, 26.61, 23.99, 26.96]
    assert list(table5.COLUMNS)[-2:] == [table5.BLEU_LOW, table5.BLEU_HIGH]


def test_ats_of_fewer_updates_than_the_nat_are_named(tmp_path: Path) -> None:
    def said(**updates: int) -> list[str]:
        for name, count in updates.items():
            (path,) = (tmp_path / name).rglob("metrics.json")
            path.write_text(json.dumps(json.loads(path.read_text()) | {"updates": count}))
        item = table5.make(Library(Study(tmp_path)))
        return [note for note in item.notes if "updates" in note]

    made(tmp_path, 25.0)
    assert said() == []  # such a record does not tell
    (note,) = said(vanilla_raw=1000, at_tiny=400, at_small=400, at_base=1000)
    assert note.startswith("the ATs tiny, small had 400 updates, the NAT 1,000: ")
    assert said(vanilla_raw=1000, at_tiny=1000, at_small=2000) == []


@pytest.mark.parametrize(
    ("data", "budget", "sizes"),
    [
        ("grammar", None, table5.SIZES),
        ("multi30k_de-en", "mini", table5.SIZES),
        ("multi30k_de-en", "paper", table5.PAPER_SIZES),
        ("wmt14_en_de", None, table5.PAPER_SIZES),  # its own budget
    ],
)
def test_sizes_of_the_search_follow_the_budget(
    data: str, budget: str | None, sizes: tuple[str, ...], tmp_path: Path
) -> None:
    """On every data set of a study at the paper's scale the paper's seven, and all of that budget."""
    library = Library(Study(tmp_path, data=data, budget=budget, root="ROOT"))
    table5.make(library)
    words = [dict(w.lstrip("+").partition("=")[::2] for w in e.command if "=" in w) for e in library.missing]
    trained = [one for one in words if one.get("experiment") == "at"]
    own = [one for one in trained if one["data"] == data.partition("_")[0] or one["data"] == data]
    assert {one["size"] for one in own} >= set(sizes)
    if sizes == table5.PAPER_SIZES:
        assert {one["budget"] for one in words if "budget" in one} == {"paper"}
        for name in ("synthetic_a", "synthetic_b"):
            assert {one["size"] for one in trained if one["data"] == name} == set(sizes)
    else:
        assert not {one["size"] for one in trained} & (set(table5.PAPER_SIZES) - {"student"})


@pytest.mark.parametrize("row", paper_table("table6"), ids=lambda row: row["d_model"])
def test_the_papers_seven_can_be_trained(row: dict[str, str]) -> None:
    """Each as Table 6 has it, with the updates of the NAT, and with about the parameters that it counts (40k
    tokens, App. G; position embeddings are ours)."""
    name = table5.PAPER_SIZES[int(row["number"]) - 1]
    overrides = ["+experiment=at", f"size={name}", "data=wmt14_en_de"]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        job = Job(hydra.compose("train", overrides), overrides)
        nat = hydra.compose("train", ["+experiment=vanilla_raw", "data=wmt14_en_de"])
    size = job.size
    assert (size.d_model, size.d_ff) == (int(row["d_model"]), int(row["d_hidden"]))
    assert size.encoder_layers == size.decoder_layers == int(row["n_layers"])
    assert size.num_heads == int(row["n_heads"])
    assert size.dropout == 0.1
    assert job.cfg.updates == nat.updates == 300_000
    with torch.device("meta"):
        model = hydra.utils.instantiate(job.cfg.module.model, _convert_="all")(
            size=size, src_size=40_000, tgt_size=40_000, is_joint=True
        )
    parameters = sum(one.numel() for one in model.parameters()) / 1e6
    assert parameters == pytest.approx(float(row["parameters_millions"]), rel=0.1)


def test_teachers_keep_their_updates_at_the_papers_scale() -> None:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for size, updates in (("tiny", 100_000), ("big", 100_000), ("d128", 300_000)):
            cfg = hydra.compose("train", ["+experiment=at", f"size={size}", "budget=paper"])
            assert cfg.updates == updates
