"""Latency: the arithmetic with a clock of our own, and the whole on tiny random runs."""

import csv
import dataclasses
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from matplotlib.collections import PathCollection

from mple import ctranslate2_export
from mple.bleu import BleuScorer
from mple.checks import UserError
from mple.decoding.argmax import Argmax
from mple.evaluate import evaluate
from mple.evaluation.finished import Finished
from mple.evaluation.latency import (
    AT_BEAM,
    TURN,
    Latency,
    Plan,
    System,
    Timing,
    measure,
    ratio,
    shallow_layers,
    spread,
)
from mple.evaluation.latency_plot import Report, Row, Spread
from mple.model.autoregressive import Autoregressive
from mple.model.transformer import Size
from tests.runs import CONF, random_run


class Machine:
    """A clock that only decoding moves on: `cost(name, rows, number of the call)` seconds."""

    def __init__(self, cost: Callable[[str, list[int], int], float]) -> None:
        self.now, self.cost = 0.0, cost
        self.calls: list[tuple[str, list[int]]] = []

    def clock(self) -> float:
        return self.now

    def system(self, name: str) -> System:
        def decode(rows: list[int]) -> list[int]:
            self.now += self.cost(name, rows, len(self.calls))
            self.calls.append((name, rows))
            return rows

        return System(name, name, "NAT", lambda rows: rows.tolist(), decode, lambda rows: [[r] for r in rows])


def test_quartiles() -> None:
    assert spread(np.array([5.0, 1.0, 2.0, 4.0, 3.0])) == Spread(3.0, 2.0, 4.0)
    assert spread(np.array([7.0])) == Spread(7.0, 7.0, 7.0)


def test_the_figures_of_a_timing() -> None:
    # three passes over four sentences, two in each turn
    seconds = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [9, 2, 5, 4]])
    turn_of = np.array([0, 0, 1, 1])
    found = Timing(seconds, turn_of, 4)
    assert found.latency_ms() == spread(np.array([1000.0, 2000, 3000, 4000]))  # medians over passes
    assert found.rate() == spread(np.array([4 / 10, 4 / 10, 4 / 20]))
    assert found.per_turn().tolist() == [[3, 7], [3, 7], [11, 9]]
    assert ratio(found, Timing(2 * seconds, turn_of, 4)) == Spread(0.5, 0.5, 0.5)
    ones = Timing(np.ones((3, 4)), turn_of, 4)
    assert ratio(found, ones) == spread(np.array([1.5, 3.5, 1.5, 3.5, 5.5, 4.5]))


def test_every_sentence_is_in_one_batch_and_larger_batches_are_of_similar_length() -> None:
    lengths = np.array([3, 9, 3, 5, 1, 7, 2])
    one = Plan.of(lengths, 1)
    assert [rows.tolist() for rows in one.batches] == [[i] for i in range(7)]
    three = Plan.of(lengths, 3)
    assert [rows.tolist() for rows in three.batches] == [[1, 5, 3], [0, 2, 6], [4]]
    many = Plan.of(np.ones(2 * TURN + 3, int), 1)
    assert [len(turn) for turn in many.turns] == [TURN, TURN, 3]
    assert many.turn_of.tolist() == [0] * TURN + [1] * TURN + [2] * 3
    assert [len(turn) for turn in Plan.of(np.ones(200, int), 2 * TURN).turns] == [1, 1, 1, 1]


def test_systems_take_turns_and_only_their_batches_are_timed() -> None:
    machine = Machine(lambda name, rows, call: {"a": 1.0, "b": 10.0}[name] * len(rows))
    systems = [machine.system("a"), machine.system("b")]
    plan = Plan.of(np.ones(TURN + 1, int), TURN // 2)  # turns of two batches and of one
    timings, said = measure(systems, plan, repeats=2, warmup=1, clock=machine.clock)
    first, second, third = (list(rows) for rows in plan.batches)
    assert machine.calls[:2] == [("a", first), ("b", first)]  # warm-up
    once = [
        *[("a", first[:1]), ("a", first), ("a", second), ("b", first[:1]), ("b", first), ("b", second)],
        *[("a", third[:1]), ("a", third), ("b", third[:1]), ("b", third)],
    ]
    assert machine.calls[2:] == once + once
    assert timings["a"].seconds.tolist() == [[TURN / 2, TURN / 2, 1.0]] * 2
    assert timings["b"].seconds.tolist() == [[5.0 * TURN, 5.0 * TURN, 10.0]] * 2
    assert ratio(timings["b"], timings["a"]) == Spread(10.0, 10.0, 10.0)
    assert said["a"] == said["b"] == {row: [row] for row in range(TURN + 1)}


def test_a_disturbance_leaves_the_ratio_alone() -> None:
    """For a third of the time the machine is five times slower: whoever's turn it is, both are hit."""
    machine = Machine(lambda name, rows, call: {"a": 1.0, "b": 4.0}[name] * (5 if 60 < call < 110 else 1))
    plan = Plan.of(np.ones(5 * TURN, int), 1)
    timings, _ = measure(
        [machine.system("a"), machine.system("b")], plan, repeats=3, warmup=0, clock=machine.clock
    )
    assert ratio(timings["b"], timings["a"]).median == 4.0
    assert timings["a"].latency_ms().median == 1000.0


@pytest.mark.parametrize(
    "size",
    [Size(512, 2048, 6, 6, 8), Size(256, 512, 3, 3, 4), Size(256, 1024, 3, 3, 4), Size(128, 256, 2, 2, 4)],
)
def test_the_shallow_model_is_the_nearest_in_parameters(size: Size) -> None:
    def parameters(encoder_layers: int, decoder_layers: int) -> int:
        changed = dataclasses.replace(size, encoder_layers=encoder_layers, decoder_layers=decoder_layers)
        with torch.device("meta"):
            model = Autoregressive(changed, 10, 10, is_joint=True)
        return sum(p.numel() for p in model.parameters())

    wanted = parameters(size.encoder_layers, size.decoder_layers)
    distance = {layers: abs(parameters(layers, 1) - wanted) for layers in range(1, 20)}
    assert shallow_layers(size) == min(distance, key=distance.__getitem__)
    assert distance[shallow_layers(size)] < 0.11 * wanted


# --- on runs -------------------------------------------------------------------------------------------

BATCHES = [1, 2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    short = ("decoding.max_length_factor=0.5", "decoding.max_length_offset=3")
    return {
        "vanilla": random_run(root, "+experiment=vanilla_raw"),
        "glat": random_run(root, "+experiment=glat_raw"),
        "at": random_run(root, "+experiment=at", "size=base", *short),
        "shallow": random_run(
            root, "+experiment=at", "size=base", "name=at_shallow", "sizes.base.encoder_layers=2", *short
        ),
        "other": random_run(root / "other", "+experiment=at", "size=base", "data.vocabulary.size=80"),
    }


def begin() -> None:
    GlobalHydra.instance().clear()
    hydra.initialize_config_dir(str(CONF), version_base="1.3")


def opened(folder: Path) -> Finished:
    begin()
    return Finished.open(folder, "cpu")


def files(folder: Path, end: str) -> list[Path]:
    return sorted((folder / "evaluations").glob(f"latency-*.{end}"))


def test_the_whole_report(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ctranslate2")

    def told_apart(_: BleuScorer, texts: list[str]) -> dict[str, float]:
        """In place of BLEU, which is 0 for all that random models say."""
        return {"tokenised_bleu": float(zlib.crc32(str(texts).encode()))}

    monkeypatch.setattr(BleuScorer, "score", told_apart)
    begin()
    given = [
        *(f"run={runs['vanilla']}", "estimator=latency", f"estimator.at={runs['at']}", "device=cpu"),
        *(f"estimator.shallow={runs['shallow']}", f"estimator.masks={runs['glat']}"),
        *("estimator.repeats=1", "estimator.warmup=0", f"estimator.batch_sizes={BATCHES}"),
        "estimator.sentences=3",
    ]
    found = evaluate(hydra.compose("evaluate", given), given)

    # the files have the name of evaluate.py's own
    (report,) = files(runs["vanilla"], "json")
    for end in ("md", "csv", "svg", "png"):
        assert files(runs["vanilla"], end) == [report.with_suffix(f".{end}")]
    assert json.loads(report.read_text())["metrics"] == found
    assert report.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "NAT, LPD 3, de-duplicated" in report.with_suffix(".svg").read_text()

    names = ["at_greedy", "at_beam5", "shallow_greedy", "shallow_beam5"]
    names += [f"ct2_{q}_{way}" for q in ("float32", "int8") for way in ("greedy", "beam5")]
    names += ["floor", "nat_argmax", "nat_lpd3", "nat_npd3", "mask_predict4", "mask_predict10"]
    for name in names:
        for key in (f"{name}_latency%s_ms", f"{name}_batch2%s_sentences_per_second", f"{name}_speedup%s"):
            low, median, high = (found[key % end] for end in ("_low", "", "_high"))
            assert 0 < low <= median <= high
    assert "floor_tokenised_bleu" not in found
    assert found["speedup"] == found["nat_argmax_speedup"]
    assert found[f"{AT_BEAM}_speedup"] == 1
    assert found["sentences"] == 3
    assert found["passes"] == 1
    layer = 4 * (16 * 16 + 16) + 2 * 16 * 32 + 32 + 16 + 4 * 16  # attention, feed-forward, two norms
    assert found["shallow_parameters"] - found["at_parameters"] == layer
    assert found["nat_parameters"] > 0

    # each line of the CSV file says under which conditions
    lines = list(csv.DictReader(io.StringIO(report.with_suffix(".csv").read_text())))
    assert [(line["system"], line["batch_size"]) for line in lines] == [
        (name, str(size)) for name in names for size in BATCHES
    ]
    for line in lines:
        assert (line["device"], line["dtype"]) == ("cpu", "float32")
        assert line["torch"]
        assert line["threads"]
        assert line["commit"]
        size = line["batch_size"]
        key = f"{line['system']}_batch{size}_sentences_per_second"
        assert float(line["sentences_per_second"]) == found[key]
    text = report.with_suffix(".md").read_text()
    assert "Not measured" not in text
    assert "mask-predict 4 (glat_raw)" in text

    # the texts that are scored are those of the decodings
    run = opened(runs["vanilla"])
    scorer = BleuScorer(run.data.text("test")[2][:3], "en")
    own = scorer.score(run.translate("test", Argmax())[:3])["tokenised_bleu"]
    assert found["nat_argmax_tokenised_bleu"] == pytest.approx(own)
    at = opened(runs["at"])
    for name, beam in (("at_greedy", 1), ("ct2_float32_greedy", 1), ("at_beam5", 5)):
        decoding = dataclasses.replace(at.module.decoding, beam=beam)
        own = scorer.score(at.translate("test", decoding)[:3])["tokenised_bleu"]
        assert found[f"{name}_tokenised_bleu"] == pytest.approx(own)


def test_what_cannot_be_measured_is_listed_with_what_is_needed(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctranslate2_export, "is_installed", lambda: False)
    run = opened(runs["vanilla"])
    found = Latency(str(runs["at"]), sentences=3, batch_sizes=[1], repeats=1, split="valid")(run)
    assert found["sentences"] == 3
    assert not [key for key in found if key.startswith(("ct2", "mask_predict", "shallow"))]
    text = next(p for p in files(runs["vanilla"], "md") if "Not measured" in p.read_text()).read_text()
    for needed in (
        "CTranslate2: CTranslate2 must be installed for this; it is not: pip install ctranslate2",
        "mask-predict 10: the run was not trained with masks; estimator.masks=RUN",
        "name=at_shallow sizes.base.encoder_layers=1 sizes.base.decoder_layers=1",
    ):
        assert needed in text


def test_a_run_with_masks_serves_itself(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctranslate2_export, "is_installed", lambda: False)
    found = Latency(str(runs["at"]), sentences=2, batch_sizes=[1], repeats=1)(opened(runs["glat"]))
    assert found["mask_predict10_latency_ms"] > 0


@pytest.mark.parametrize(
    ("run", "given", "said"),
    [
        ("at", {}, r"latency compares a NAT \(run\).*is autoregressive"),
        ("vanilla", {"at": None}, r"estimator\.at must name the folder"),
        (
            "vanilla",
            {"at": "glat"},
            r"estimator\.at must be the run of an autoregressive model; got glat_raw",
        ),
        ("vanilla", {"at": "other"}, r"estimator\.at must have the vocabulary of the run"),
        ("vanilla", {"at": "nowhere"}, r"estimator\.at must be the folder of a finished run; there is no"),
        ("vanilla", {"shallow": "glat"}, r"estimator\.shallow must be the run of an autoregressive model"),
        ("vanilla", {"masks": "at"}, r"estimator\.masks must be the run of a NAT"),
        ("vanilla", {"masks": "vanilla"}, r"estimator\.masks must be a run trained with masks"),
    ],
)
def test_runs_that_do_not_fit(runs: dict[str, Path], run: str, given: dict[str, Any], said: str) -> None:
    given = {"at": "at"} | given
    folders: dict[str, Any] = {k: v and str(runs.get(v, Path(v))) for k, v in given.items()}
    with pytest.raises(UserError, match=said):
        Latency(**folders, sentences=1)(opened(runs[run]))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("split", "train"), ("sentences", 0), ("repeats", 0), ("warmup", -1), ("precision", "8")),
        *(("batch_sizes", [8]), ("batch_sizes", [1, 1]), ("batch_sizes", [1, 0])),
    ],
)
def test_settings_out_of_range(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"estimator\.{key}"):
        Latency(**{key: value})


def test_the_picture_shows_each_system_at_its_place() -> None:
    rate = {1: Spread(10.0, 9.0, 11.0), 8: Spread(50.0, 40.0, 60.0)}
    measured = Row("a", "A", "NAT", Spread(100.0, 90.0, 110.0), rate, Spread(2.0, 1.5, 2.5), 25.0)
    report = Report("t", (measured, Row("b", "B", "AT", reason="why")), (1, 8), {"device": "cpu"})
    (axes,) = report.figure().axes
    (points,) = [found for found in axes.collections if isinstance(found, PathCollection)]
    assert points.get_offsets().tolist() == [[10.0, 25.0], [50.0, 25.0]]
    small, large = points.get_sizes()
    assert small < large
    legend = [text.get_text() for text in report.figure().legends[0].get_texts()]
    assert legend == ["A", "batch 1", "batch 8"]
    assert "| A | 100.0 (90.0–110.0) | 10.0 (9.0–11.0) | 50.0 (40.0–60.0) | 2.00" in report.markdown()
    assert "- Not measured: B: why" in report.markdown()
