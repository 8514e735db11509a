"""`budget=paper` against the paper's tables and appendices, and against fairseq, which trained its models."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import hydra
import pytest
import pytorch_lightning as pl
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from mple.callbacks import ValidateAtEnd
from mple.checks import UserError
from mple.data.batching import TokenBuckets
from mple.launch import Job
from mple.model.attention import Attention
from mple.model.autoregressive import Autoregressive
from mple.model.transformer import Residual, Size
from mple.proxy_input.glancing import Glancing, glanced_count
from tests.runs import CONF, text_job

DATA = ("wmt14_en_de", "wmt16_en_ro", "wmt17_zh_en")

FOR_ALL: dict[str, Any] = {
    # App. G: transformer-base of Vaswani et al. in fairseq; 64k tokens an update on 8 GPUs
    "max_tokens": 8192,
    "micro_batches": 8,
    "accumulate": 1,
    "trainer.devices": 8,
    "average_best": 5,
    "valid_every": "epoch",
    "optimizer.betas": [0.9, 0.98],
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 0.01,
    "optimizer.warmup_steps": 10_000,
    "optimizer.clip_norm": 0.0,  # fairseq's default
    "objective.label_smoothing": 0.1,
    # Table 10 and App. F
    "autoregressive.beam": 5,
    "autoregressive.length_penalty": 1.0,
}
OF_NATS: dict[str, Any] = {
    "size": "student",
    "updates": 300_000,  # App. G
    "optimizer.lr": 5e-4,
    "optimizer.schedule": "inverse_sqrt",
    "objective.spread": None,  # as fairseq's NATs
    "module.model.length.max_offset": 128,
    "decoding._target_": "mple.decoding.argmax.Argmax",
}
OF_ATS: dict[str, Any] = {
    "size": "base",
    "optimizer.lr": 5e-4,
    "optimizer.schedule": "inverse_sqrt",
    "objective.spread": "others",  # fairseq's label_smoothed_cross_entropy
    "module.model.positions": "sinusoidal",  # fairseq's transformer
    "decoding.beam": 5,
    "decoding.length_penalty": 1.0,
}
OF_EXPERIMENTS: dict[str, dict[str, Any]] = {
    "at": OF_ATS,
    "vanilla_raw": OF_NATS,
    "glat_kd": OF_NATS
    | {"proxy_input.start": 0.5, "proxy_input.stop": 0.3, "proxy_input.over": 1.0},  # App. E.6
    "glat_dynkd": OF_NATS | {"proxy_input.start": 0.5, "proxy_input.stop": 0.3},
    "axe_tau5": OF_NATS | {"proxy_target.delta": 5},  # Table 2
    "oaxe_50k": OF_NATS  # Table 2, App. G: 100k updates at a fixed 1e-5, from a vanilla NAT of 50k
    | {
        "updates": 100_000,
        "optimizer.lr": 1e-5,
        "optimizer.schedule": "fixed",
        "start": {"experiment": "vanilla_kd", "updates": 50_000},
    },
}
OF_DATA: dict[str, dict[str, Any]] = {
    "wmt14_en_de": {
        "data.vocabulary.size": 40_000,
        "data.vocabulary.joint": True,
        "data.max_ratio": None,
    },  # App. G
    "wmt16_en_ro": {"data.vocabulary.size": 40_000, "data.vocabulary.joint": True, "data.max_ratio": None},
    "wmt17_zh_en": {
        "data.vocabulary.size": {"zh": 48_000, "en": 33_000},
        "data.vocabulary.joint": False,
        "data.max_ratio": 1.5,  # Kasai et al. (2020)
        "data.max_length": 250,
    },
}
TEACHER_UPDATES = {"wmt14_en_de": 100_000, "wmt16_en_ro": 100_000, "wmt17_zh_en": 300_000}  # App. F
TABLE_10 = {  # d_model, d_hidden, layers, heads, dropout
    "tiny": (128, 512, 3, 4, 0.1),
    "small": (256, 1024, 3, 4, 0.1),
    "base": (512, 2048, 6, 8, 0.3),
    "big": (1024, 4096, 6, 8, 0.3),
}
TABLE_6 = {  # d_hidden, layers, heads, share of the largest one's parameters in percent
    "d32": (32, 128, 2, 2, 2.1),
    "d48": (48, 192, 2, 2, 3.2),
    "d64": (64, 256, 2, 2, 4.3),
    "d96": (96, 384, 2, 2, 7.0),
    "d128": (128, 512, 3, 4, 10.5),
    "d256": (256, 1024, 3, 4, 27.3),
    "student": (512, 2048, 6, 8, 100.0),
}
GAMMA = {  # App. F: tiny, small, base, big, raw
    "wmt14_en_de": [0.7, 0.6, 1.3, 1.5, 2.3],
    "wmt16_en_ro": [1.0] * 5,
    "wmt17_zh_en": [0.9, 1.4, 1.3, 0.9, 2.0],
}
BETA = {"wmt14_en_de": 0.2, "wmt16_en_ro": 0.2, "wmt17_zh_en": 0.1}


@pytest.fixture(autouse=True)
def configuration() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def job(*overrides: str) -> Job:
    return Job(hydra.compose("train", list(overrides)), list(overrides))


def shape(size: dict[str, Any]) -> tuple[Any, ...]:
    assert size["encoder_layers"] == size["decoder_layers"]
    return size["d_model"], size["d_ff"], size["encoder_layers"], size["num_heads"]


@pytest.mark.parametrize(("data", "experiment"), list(itertools.product(DATA, OF_EXPERIMENTS)))
def test_budget_paper_has_the_settings_of_the_paper(data: str, experiment: str) -> None:
    cfg = hydra.compose("train", [f"+experiment={experiment}", f"data={data}"])
    expected = FOR_ALL | OF_EXPERIMENTS[experiment] | OF_DATA[data]
    if experiment == "at":
        expected |= {"updates": TEACHER_UPDATES[data]}
    if experiment == "glat_dynkd":
        expected |= {"proxy_target.beta": BETA[data]}
        assert list(cfg.proxy_target.gamma.values()) == GAMMA[data]
    actual = {}
    for key in expected:
        value = OmegaConf.select(cfg, key)
        actual[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    assert actual == expected


@pytest.mark.parametrize("data", DATA)
def test_teachers_of_budget_paper_are_those_of_table_10(data: str) -> None:
    student = job("+experiment=glat_dynkd", f"data={data}", "autoregressive.length_penalty=0.8")
    assert list(student.teachers()) == list(TABLE_10)
    for name, teacher in student.teachers().items():
        size = teacher.plain["sizes"][name]
        assert (*shape(size), size["dropout"]) == TABLE_10[name]
        assert (size["attention_dropout"], size["attention_init"], size["norm"]) == (0.0, "fairseq", "post")
        assert teacher.cfg.updates == TEACHER_UPDATES[data]
        assert teacher.cfg.decoding.length_penalty == 0.8
        assert teacher.cfg.module.model.positions == "sinusoidal"
        assert teacher.cfg.optimizer.clip_norm == 0.0


def test_sizes_of_budget_paper_are_those_of_table_6() -> None:
    sizes: Any = OmegaConf.to_container(hydra.compose("train", ["budget=paper"]).sizes)
    parameters = {}
    for name, (*expected, _) in TABLE_6.items():
        assert shape(sizes[name]) == tuple(expected)
        assert (sizes[name]["dropout"], sizes[name]["norm"], sizes[name]["attention_dropout"]) == (
            0.1,
            "post",
            0.0,
        )
        with torch.device("meta"):
            model = Autoregressive(Size(**sizes[name]), 40_000, 40_000, True, "sinusoidal")
        parameters[name] = sum(p.numel() for p in model.parameters())
    shares = {name: 100 * count / parameters["student"] for name, count in parameters.items()}
    for name in ("d32", "d48", "d64"):
        assert shares[name] == pytest.approx(TABLE_6[name][-1], abs=0.05)
    # No vocabulary gives the others with the shapes of Table 6, see conf/budget/paper.yaml.
    assert [round(shares[name], 1) for name in ("d96", "d128", "d256")] == [6.8, 10.1, 24.4]


@pytest.mark.parametrize(("devices", "accumulate"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_devices_do_not_change_the_tokens_of_an_update_nor_the_key(devices: int, accumulate: int) -> None:
    words = ["+experiment=at", "data=wmt14_en_de", f"trainer.devices={devices}"]
    made = job(*words)
    assert made.accumulate == made.data(0).accumulate == accumulate
    assert devices * made.accumulate * made.cfg.max_tokens == 65_536
    assert made.run.key == job("+experiment=at", "data=wmt14_en_de").run.key
    assert made.run.key != job(*words, "max_tokens=4096").run.key


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.devices=3", r"trainer\.devices must divide micro_batches=8, so be 1, 2, 4 or 8; got 3"),
        ("trainer.devices=5", r"trainer\.devices must divide micro_batches=8, so be 1, 2, 4 or 8; got 5"),
        ("trainer.devices=16", r"must divide micro_batches=8"),
        ("accumulate=2", r"accumulate must be left out, or micro_batches=null given"),
        ("micro_batches=0", r"micro_batches .*must be a whole number of at least 1"),
        ("valid_every=never", r"valid_every must be a whole number of updates, or epoch; got 'never'"),
        ("data.max_ratio=0.5", r"data\.max_ratio must be a number from 1"),
    ],
)
def test_micro_batches_that_cannot_be_shared_raise(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        job("+experiment=vanilla_raw", "data=wmt14_en_de", word)


def test_without_micro_batches_devices_belong_to_the_key() -> None:
    def key(*words: str) -> str:
        return job("+experiment=vanilla_raw", "data=grammar", *words).run.key

    assert key() == "528d3b77"  # as before these settings
    assert len({key(), key("trainer.devices=2"), key("accumulate=2")}) == 3


@pytest.mark.parametrize(("name", "factor"), [("paper_en_de", 1.0), ("paper_zh_en", 1.05)])
def test_decoding_tricks_are_those_of_tables_4_and_9(name: str, factor: float) -> None:
    """App. D: LPD of 3 lengths, de-duplication, the tuned length factor."""
    node: Any = OmegaConf.to_container(hydra.compose("evaluate", [f"decoding={name}"]).decoding, resolve=True)
    assert (node["lengths"]["beam"], node["lengths"]["factor"], node["deduplicate"]) == (3, factor, "token")
    assert node["fill"]["_target_"].endswith("OnePass")
    assert node["choice"]["_target_"].endswith("OwnScore")


def test_attention_starts_as_in_fairseq() -> None:
    """Gain 1/√2 of three d × d matrices: max|W| = √(1.5/d); biases within ±1/√d. The default stays."""
    torch.manual_seed(0)

    def largest(attention: Attention) -> list[float]:
        return [
            float(w.detach().abs().max())
            for w in (attention.query.weight, *attention.key_value.weight.chunk(2))
        ]

    theirs = Attention(512, 8, 0.0, "fairseq")
    assert largest(theirs) == pytest.approx([0.0541] * 3, abs=5e-5)
    assert largest(Attention(512, 8, 0.0)) == pytest.approx([0.0765, 0.0625, 0.0625], abs=5e-5)
    assert 0.04 < float(theirs.key_value.bias.detach().abs().max()) <= 512**-0.5
    assert float(theirs.output.weight.detach().abs().max()) == pytest.approx((3 / 512) ** 0.5, abs=5e-5)
    assert not theirs.output.bias.detach().any()


@pytest.mark.parametrize(("own", "expected"), [(None, 0.3), (0.0, 0.0), (0.2, 0.2)])
def test_attention_dropout_is_dropout_unless_set(own: float | None, expected: float) -> None:
    size = Size(16, 32, 1, 1, 2, dropout=0.3, attention_dropout=own)
    model = Autoregressive(size, 20, 20, True)
    blocks = [module for module in model.modules() if isinstance(module, Attention)]
    assert [block.dropout.p for block in blocks] == [expected] * 3
    rates = [module.dropout.p for module in model.modules() if isinstance(module, Residual)]
    assert rates == [0.3] * 5


def test_wrong_model_settings_raise() -> None:
    for key, value in (("attention_dropout", 1.0), ("attention_init", "he")):
        with pytest.raises(UserError, match=rf"size\.{key}"):
            Size(**{key: value})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"module\.model\.positions must be one of"):
        Autoregressive(Size(16, 32, 1, 1, 2), 20, 20, True, "rotary")


def test_glanced_count_is_exact_for_every_update_of_a_run() -> None:
    """⌊λ·d⌋ with λ = 1/2 − step / (5 · total) in rational arithmetic; at step 50 of 60 ⌊3λ⌋ = 1."""
    distance = torch.arange(31)
    assert int(glanced_count(torch.tensor(3), Glancing().ratio(50, 60))) == 1
    for total in (7, 30, 60, 999, 3000):
        for step in range(0, total + 1, max(1, total // 60)):
            exact = Fraction(1, 2) - Fraction(step, 5 * total)
            expected = [int(exact * d) for d in range(31)]
            assert glanced_count(distance, Glancing().ratio(step, total)).tolist() == expected


def test_valid_every_epoch_validates_after_each_epoch_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the nearest multiple of log_every; a run that was interrupted goes on to the same weights."""
    words = ["+experiment=vanilla_raw", "max_tokens=256", "accumulate=2", "log_every=2", "valid_every=epoch"]

    def made(name: str, *more: str) -> Job:
        return text_job(tmp_path / name, "budget=minutes", *words, *more)

    data = made("whole").data(1)
    batches = len(TokenBuckets(*data.corpus("train").lengths(), 256, 1))
    assert data.updates_per_epoch(1) == batches / 2 == 2 * data.updates_per_epoch(2)
    every = 2 * round(batches / 4)
    updates = 2 * every + 1
    short = made("whole", f"updates={every - 1}")
    assert made("whole", f"updates={updates}").valid_every(data) == every
    assert short.valid_every(data) == every - 1

    whole = made("whole", f"updates={updates}")
    whole.execute()
    kept = sorted(int(path.stem.removeprefix("update")) for path in (whole.run.folder / "best").iterdir())
    assert kept == [every, 2 * every, updates]

    class Killed(Exception):
        pass

    stop = ValidateAtEnd.on_train_batch_end

    def killed(self: ValidateAtEnd, trainer: pl.Trainer, *rest: Any) -> None:
        if trainer.global_step == every + 1:
            raise Killed
        stop(self, trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ValidateAtEnd, "on_train_batch_end", killed)
        with pytest.raises(Killed):
            made("parts", f"updates={updates}").execute()
    parts = made("parts", f"updates={updates}")
    assert parts.run.last.exists()
    parts.execute()
    weights = [torch.load(j.run.folder / "averaged.pt", weights_only=True) for j in (whole, parts)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
