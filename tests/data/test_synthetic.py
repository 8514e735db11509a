"""Synthetic A and B: realised rates against binomials and against the settings, and what stays untouched."""

import json
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.stats import binomtest

from mple.checks import UserError
from mple.data.corpus import prepare
from mple.data.synthetic import Synthetic
from mple.data.text import SPLITS, LineFiles, Source
from mple.data.vocabulary import Words
from tests.runs import text_job

CONF = Path(__file__).parents[2] / "conf" / "data"
WORDS = [f"w{i}" for i in range(20)]


@pytest.fixture
def text(tmp_path: Path) -> LineFiles:
    """Targets of 1 to 12 words; w0 is as frequent as all others together."""
    rng = random.Random(0)
    for split, count in (("train", 1500), ("val", 40), ("test_2016_flickr", 30)):
        lines = [" ".join(rng.choices(WORDS, [19] + [1] * 19, k=rng.randint(1, 12))) for _ in range(count)]
        (tmp_path / f"{split}.en").write_text("".join(f"{line}\n" for line in lines))
    return LineFiles(str(tmp_path), "en", "en", valid="val", test="test_2016_flickr")


def words_of(source: Synthetic, split: str = "train") -> list[tuple[list[str], list[str]]]:
    return [(src.split(), tgt.split()) for _, src, tgt in source.pairs(split)]


def test_it_is_a_source(text: LineFiles) -> None:
    source = Synthetic(text)
    assert isinstance(source, Source)
    assert (source.src_lang, source.tgt_lang) == ("en", "en")
    assert [source.size(split) for split in SPLITS] == [1500, 40, 30]
    for split in SPLITS:
        targets = [(line, tgt) for line, _, tgt in text.pairs(split)]
        assert [(line, tgt) for line, _, tgt in source.pairs(split)] == targets


@pytest.mark.parametrize("count", ["fixed", "bernoulli"])
@pytest.mark.parametrize("draw", ["uniform", "unigram"])
@pytest.mark.parametrize("may_repeat", [True, False])
def test_rates(text: LineFiles, count: str, draw: str, may_repeat: bool) -> None:
    source = Synthetic(text, drop=0.1, count=count, draw=draw, may_repeat=may_repeat)
    rates = source.rates("train")
    total = sum(len(tgt) for _, tgt in words_of(source))
    for name, share in (("replaced", 0.5), ("dropped", 0.1)):
        hits = round(rates[f"{name}_percent"] * total / 100)
        assert binomtest(hits, total, share).pvalue > 0.001
    # A drawn word is the old one with Σ p(w) q(w), q the distribution of the replacements.
    p = {word: 0.5 if word == "w0" else 0.5 / 19 for word in WORDS}
    again = sum(p[w] * (p[w] if draw == "unigram" else 1 / 20) for w in WORDS)
    kept = rates["changed_percent"] / rates["replaced_percent"]
    assert kept == pytest.approx(1 - again, abs=0.02) if may_repeat else kept == 1


def test_a_fixed_count_is_as_near_as_whole_words_allow(text: LineFiles) -> None:
    source = Synthetic(text, drop=0.1, may_repeat=False)
    odd = Counter()
    for src, tgt in words_of(Synthetic(text, may_repeat=False)):
        replaced = sum(a != b for a, b in zip(src, tgt, strict=True))
        assert abs(replaced - len(tgt) / 2) < 1
        odd[replaced - len(tgt) // 2] += len(tgt) % 2
    assert binomtest(odd[1], odd.total(), 0.5).pvalue > 0.001  # the half word falls to either side
    for src, tgt in words_of(source):
        assert abs(len(tgt) - len(src) - 0.1 * len(tgt)) < 1


def test_what_replaces(text: LineFiles) -> None:
    def replacements(draw: str) -> Counter[str]:
        source = Synthetic(text, replace=1, draw=draw)
        return Counter(word for src, _ in words_of(source) for word in src)

    for draw, share in (("uniform", 1 / 20), ("unigram", 0.5)):
        found = replacements(draw)
        assert set(found) == set(WORDS)
        assert found["w0"] / found.total() == pytest.approx(share, abs=0.02)


def test_the_vocabulary_is_that_of_training(text: LineFiles) -> None:
    (Path(text.root) / "val.en").write_text("new words only here\n" * 10)
    drawn = {word for src, _ in words_of(Synthetic(text, replace=1), "valid") for word in src}
    assert drawn <= set(WORDS)


def test_limits(text: LineFiles) -> None:
    assert all(src == tgt for src, tgt in words_of(Synthetic(text, replace=0)))
    for count in ("fixed", "bernoulli"):
        never_empty = words_of(Synthetic(text, drop=0.95, count=count))
        assert min(len(src) for src, _ in never_empty) == 1
    only_dropped = Synthetic(text, replace=0, drop=0.3)
    for src, tgt in words_of(only_dropped):
        rest = iter(tgt)
        assert all(word in rest for word in src)  # what is left keeps its order
    assert only_dropped.rates("train")["replaced_percent"] == 0


def test_empty_targets_stay_empty_pairs(text: LineFiles) -> None:
    (Path(text.root) / "val.en").write_text("w1 w2\n\nw3\n")
    assert [(bool(src), bool(tgt)) for _, src, tgt in Synthetic(text).pairs("valid")] == [
        (True, True),
        (False, False),
        (True, True),
    ]


def test_sources_are_drawn_once(text: LineFiles) -> None:
    """A function of seed, split and line: not of what was read before, nor of the other lines' words."""
    source = Synthetic(text, drop=0.1)
    before = list(source.pairs("train"))
    assert list(source.pairs("train")) == before
    path = Path(text.root) / "train.en"
    lines = path.read_text().splitlines()
    lines[3] = " ".join(lines[3].split()[::-1])  # the same words, so the same vocabulary
    path.write_text("".join(f"{line}\n" for line in lines))
    after = list(Synthetic(text, drop=0.1).pairs("train"))
    assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [3]
    assert [src for _, src, _ in Synthetic(text, seed=1).pairs("train")] != [src for _, src, _ in after]


def test_inputs_say_all_that_changes_the_data(text: LineFiles) -> None:
    source = Synthetic(text)
    inputs = source.inputs()
    assert inputs == Synthetic(text, replace=0.5, drop=0).inputs()  # 0 is 0.0
    changes = {
        "replace": 0.4,
        "drop": 0.1,
        "count": "bernoulli",
        "draw": "unigram",
        "may_repeat": False,
        "seed": 1,
    }
    assert all(replace(source, **{name: value}).inputs() != inputs for name, value in changes.items())
    (Path(text.root) / "val.en").write_text("other\n")
    assert source.inputs() != inputs


def test_realised_rates_are_logged(text: LineFiles, caplog: pytest.LogCaptureFixture) -> None:
    source = Synthetic(text, drop=0.1)
    with caplog.at_level("INFO"):
        list(source.pairs("test"))
    rates = source.rates("test")
    assert f"replaced_percent {rates['replaced_percent']:.2f}" in caplog.text
    assert f"dropped_percent {rates['dropped_percent']:.2f}" in caplog.text


@pytest.mark.parametrize("count", ["fixed", "bernoulli"])
def test_the_prepared_corpus_has_its_rates(text: LineFiles, count: str, tmp_path: Path) -> None:
    source = Synthetic(text, drop=0.1, count=count)
    prepared = prepare(source, tmp_path / "data", Words(30), max_length=6)
    for split, corpus in prepared.corpora.items():
        words = sum(len(tgt) for _, tgt in words_of(source, split))
        assert corpus.realised == source.rates(split) | {"words": words}
        assert json.loads((corpus.folder / "corpus.json").read_text())["realised"] == corpus.realised
    assert len(prepared.corpora["train"]) < 1500  # over-long pairs are gone, and still in the rates
    plain = prepare(text, tmp_path / "data", Words(30), max_length=6)
    assert all(corpus.realised == {} for corpus in plain.corpora.values())


def test_a_run_has_the_rates_of_its_data(text: LineFiles, tmp_path: Path) -> None:
    def metrics(*data: str) -> dict:
        made = text_job(
            tmp_path,
            "+experiment=vanilla_raw",
            data=(*data, f"data.root={text.root}", "data.vocabulary.size=26"),
        )
        loaded = made.data(0)
        loaded.setup()
        module = made.module(loaded)
        module.results = {"speed/tokens_per_second": 1.0}
        made.run.folder.mkdir(parents=True)
        made._write_results(module, made._metrics(module, loaded, minutes=0.0))
        return json.loads((made.run.folder / "metrics.json").read_text())

    found = metrics("data=synthetic_b")["realised"]
    source = Synthetic(text, drop=0.1)
    assert list(found) == list(SPLITS)
    for split in SPLITS:
        assert found[split].pop("words") > 0
        assert found[split] == source.rates(split)
    files = ("data.source.valid=val", "data.source.test=test_2016_flickr")
    assert "realised" not in metrics("data=text", "data.src_lang=en", "data.tgt_lang=en", *files)


@pytest.mark.parametrize(("name", "drop"), [("synthetic_a", 0), ("synthetic_b", 0.1)])
def test_configuration(name: str, drop: float, text: LineFiles) -> None:
    cfg = OmegaConf.load(CONF / f"{name}.yaml")
    cfg.data.root = text.root
    OmegaConf.resolve(cfg)
    source = instantiate(cfg.data.source)
    assert source == Synthetic(text, drop=drop)
    assert cfg.data.name == f"{name}_en"
    assert len(list(source.pairs("test"))) == 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replace": 1.1}, r"data\.source\.replace must be a number from 0 to 1; got 1\.1"),
        ({"replace": math.nan}, r"data\.source\.replace"),
        ({"drop": 1}, r"data\.source\.drop must be below 1; got 1"),
        ({"count": "poisson"}, r"data\.source\.count must be one of bernoulli, fixed; got 'poisson'"),
        ({"draw": "bigram"}, r"data\.source\.draw must be one of uniform, unigram; got 'bigram'"),
        ({"seed": -1}, r"data\.source\.seed"),
    ],
)
def test_settings(text: LineFiles, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Synthetic(text, **settings)


def test_refusals(text: LineFiles) -> None:
    with pytest.raises(UserError, match="split must be one of"):
        list(Synthetic(text).pairs("dev"))
    (Path(text.root) / "val.en").write_text("\n\n")
    with pytest.raises(UserError, match="the valid split must have words; got 2 lines without any"):
        Synthetic(text).rates("valid")
    (Path(text.root) / "train.en").write_text("same same\n")
    with pytest.raises(UserError, match=r"at least 2 different words .*may_repeat=False\); got 1"):
        list(Synthetic(text, may_repeat=False).pairs("train"))
    assert len(list(Synthetic(text).pairs("train"))) == 1


def test_chinese_is_corrupted_character_by_character(tmp_path: Path) -> None:
    for split in SPLITS:
        (tmp_path / f"{split}.zh").write_text(
            "我喜欢你的狗 AI book。\n今天天气很好。\n" * 50, encoding="utf-8"
        )
    source = Synthetic(LineFiles(str(tmp_path), "zh", "zh"), replace=0.5)
    assert 20 < source.rates("train")["changed_percent"] < 60
    assert all(len(src) > 3 and src != tgt for _, src, tgt in source.pairs("train"))
    kept = Synthetic(LineFiles(str(tmp_path), "zh", "zh"), replace=0)
    assert all(src == tgt for _, src, tgt in kept.pairs("train"))
