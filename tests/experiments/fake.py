"""Made-up runs: folders with a metrics.json and evaluations, as train.py and evaluate.py leave them.

run = make_run(outputs, "vanilla_kd", bleu=20.0)
evaluate(run, "mple", similarity=50.0)
make_all(outputs)                                  # everything that the items ask for, one seed each
"""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.paper_items import figure8, table2, table3, table4
from experiments.paper_items.runs import at
from mple.data.corpus import write_corpus
from mple.data.vocabulary import WordVocabulary

TARGETS = {"estimator": {"_target_": "mple.evaluation.x.X"}}
LPD = {
    "decoding": {
        "_target_": "mple.decoding.decode.Decode",
        "lengths": {"_target_": "mple.decoding.lengths.Top", "beam": 3},
        "fill": {"_target_": "mple.decoding.fill.OnePass"},
        "deduplicate": "token",
    }
}


def make_run(
    outputs: Path,
    name: str,
    seed: int = 1,
    data: str = "grammar",
    bleu: float = 20.0,
    overrides: str = "",
    key: str = "0123abcd",
    parameters: int = 1000,
    **numbers: float,
) -> Path:
    """The folder of a finished run. `numbers` go into its test and its validation."""
    folder = outputs / name / data / key / f"seed{seed}"
    folder.mkdir(parents=True)
    base = ("at_kd" if name.endswith("_kd") else "at") if name.startswith("at_") else name
    record = {"experiment": name, "data": data, "key": key, "seed": seed, "parameters": parameters}
    record |= {"command": f"python train.py +experiment={base} {overrides} seed={seed}".replace("  ", " ")}
    record |= {"commit": "abc1234", "date": "2026-11-23", "machine": "2 CPU cores"}
    record |= {"test": {"tokenised_bleu": bleu, **numbers}, "valid": {"tokenised_bleu": bleu, **numbers}}
    (folder / "averaged.pt").touch()
    _write(folder / "metrics.json", record)
    return folder


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """JSON that is there as a whole or not at all, as train.py writes it: others may be reading."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(value))
    part.rename(path)


def evaluate(folder: Path, name: str, settings: Mapping[str, Any] = TARGETS, **metrics: float) -> None:
    """A report of evaluate.py in a run's folder."""
    path = folder / "evaluations"
    path.mkdir(exist_ok=True)
    report = {"settings": dict(settings), "metrics": metrics, "date": "2026-11-23"}
    _write(path / f"{name}-{secrets.token_hex(4)}.json", report)


def predictor(folder: Path) -> None:
    """A finished input predictor of a run."""
    path = folder / "input_predictor" / "0123abcd"
    path.mkdir(parents=True)
    _write(path / "input_predictor.json", {})


def prepare(outputs: Path, sources: list[str], references: list[str], data: str = "grammar") -> None:
    """The prepared test split of a data set, as far as its text is read."""
    folder = outputs / "data" / data / "test-0123456789ab"
    folder.mkdir(parents=True)
    words = WordVocabulary(sorted({word for text in sources + references for word in text.split()}))
    write_corpus(folder, zip(range(len(sources)), sources, references, strict=True), words, words)


def ends(name: str, unit: str, value: float, half: float) -> dict[str, Any]:
    """A number with its interval under the names that `Interval.metrics` gives them."""
    unit = f"_{unit}" if unit else ""
    return {f"{name}{unit}": value, f"{name}_low{unit}": value - half, f"{name}_high{unit}": value + half}


def make_all(outputs: Path, seed: int = 1) -> None:
    """Every run and evaluation of the grammar's items but Figure 1, each number another one."""
    names = {*table2.ROWS.values(), *table3.ROWS.values()}
    names |= {training.name for training, _ in table4.ROWS.values()}
    names |= {
        figure8.training(model, target).name
        for model in figure8.MODELS
        for target in (*figure8.TEACHERS, figure8.DYNAMIC)
    }
    for place, name in enumerate(sorted(names)):
        bleu = 20.0 + place + seed / 10
        run = make_run(outputs, name, seed, bleu=bleu, nat_loss_raw_bits_per_token=2 + place / 10)
        loss = ends("nat_loss", "bits_per_token", 3 - place / 10, 0.05)
        target = ends("target_loss", "bits_per_token", -6 - place / 20, 0.05)
        total = ends("mple_loss", "bits_per_token", -3 - place / 7, 0.05)
        given: dict[str, Any] = {"input_loss_bits_per_token": 0.1}
        evaluate(run, "mple", **loss, **target, **total, **given, similarity=30.0 + place / 4)
        evaluate(run, "text", LPD, tokenised_bleu=bleu + 1)
        loss = ends("nat_loss_raw", "bits_per_token", 2 + place / 10, 0.05)
        evaluate(run, "likelihood", **loss)
        beside: dict[str, Any] = {"at": str(outputs / "at_base"), "batch_sizes": [1], "sentences": None}
        speed = {"speedup": 10.0 + place, "nat_lpd3_speedup": 9.0 + place}
        evaluate(run, "latency", {"estimator": beside}, **speed)
        confidence: dict[str, Any] = {"default_confidence_nats_per_token": -1.0}
        confidence |= {"sampled_confidence_nats_per_token": -0.5, "sampled_tokenised_bleu": bleu - 1}
        confidence |= ends("sampling_gain", "bleu", -1.0, 0.5)
        evaluate(run, "confidence", **confidence)
        predictor(run)
    synthetic = ["grammar_synthetic_b", "grammar_synthetic_a"]
    modes = ["grammar", "grammar_p20", "grammar_p05", "grammar_p00"]
    texts = [(data, "raw") for data in (*synthetic, *modes)] + [("grammar", "kd")]
    for place, size in enumerate(("micro", "tiny", "small", "student", "base", "big")):
        for data, text in texts:
            name = at(size, text).name
            if (outputs / name / data / "0123abcd" / f"seed{seed}").exists():
                continue
            make_run(
                outputs,
                name,
                seed,
                data,
                bleu=10.0 + 10 * place,
                parameters=500 * (place + 1),
                overrides=f"size={size} data.name={data}",
            )
    for place, (data, text) in enumerate((texts[-1], *reversed(texts[:-1]))):
        own = outputs / f"vanilla_{text}" / data / "0123abcd" / f"seed{seed}"
        if not own.exists():
            make_run(
                outputs, own.parents[2].name, seed, data, bleu=37.0 - place, overrides=f"data.name={data}"
            )
        other = outputs / at("student", text).name / data / "0123abcd" / f"seed{seed}"
        settings = {"estimator": {"at": str(other)}}
        evaluate(
            own,
            "total_correlation",
            settings,
            **ends("total_correlation", "bits_per_token", place - 1.0, 0.1),
        )
