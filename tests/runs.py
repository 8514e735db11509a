"""Tiny finished runs for tests: the folders that `train.py` leaves, made in a moment.

folder = random_run(tmp_path, "+experiment=vanilla_raw")     # random weights, a vocabulary of subwords
"""

import random
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from mple.data.candidates import DistilledWriter
from mple.files import write_whole
from mple.launch import Job
from mple.run import MadeFrom, provenance
from tests.fakes import _shaken

CONF = Path(__file__).parents[1] / "conf"
SIZES = ("tiny", "small", "base", "big", "student")
MICRO = [
    *(f"sizes.{size}.{key}={value}" for size in SIZES for key, value in (("d_model", 16), ("d_ff", 32))),
    *(f"sizes.{size}.{part}_layers=1" for size in SIZES for part in ("encoder", "decoder")),
    *(f"sizes.{size}.num_heads=2" for size in SIZES),
    *(f"sizes.{size}.max_positions=32" for size in SIZES),
    *("trainer.precision=32-true", "trainer.accelerator=cpu", "max_tokens=512"),
]
MAX_LENGTH = 12
SIGNATURE = "BLEU|nrefs:1|tok:13a"
_SRC = ["mann", "frau", "hund", "katze", "läuft", "schläft", "sieht", "über", "unter", "schnell,", "langsam."]
_SRC += ["grün!", "ein", "eine", "der", "die"]
_TGT = ["man", "woman", "dog", "cat", "runs", "sleeps", "sees", "over", "under", "fast,", "slow."]
_TGT += ["green!", "a", "an", "the", "one"]


def sentences(count: int, seed: int = 0, words: list[str] = _SRC) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(1, 5))) for _ in range(count)]


def write_corpus(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate((("train", 300), ("valid", 10), ("test", 10))):
        (root / f"{split}.de").write_text("".join(s + "\n" for s in sentences(count, seed, _SRC)))
        (root / f"{split}.en").write_text("".join(s + "\n" for s in sentences(count, seed, _TGT)))
    return root


def job(*overrides: str) -> Job:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return Job(hydra.compose("train", list(overrides)), list(overrides))


def text_job(root: Path, *overrides: str, data: Sequence[str] | None = None) -> Job:
    """A job on a small text, with subwords or as `overrides` say; `data` are overrides that choose others."""
    if data is not None:
        return job(*MICRO, *data, "data.max_length=30", f"outputs={root / 'outputs'}", *overrides)
    text = ["data=text", f"data.root={write_corpus(root / 'corpus')}", "data.src_lang=de", "data.tgt_lang=en"]
    text += ["data.vocabulary.size=90", f"data.max_length={MAX_LENGTH}", f"outputs={root / 'outputs'}"]
    has_length = not {"+experiment=at", "+experiment=at_kd"} & set(overrides)
    small = ("module.model.length.max_offset=3",) if has_length else ()
    return job(*MICRO, *text, *small, *overrides)


def distil_at_random(made: Job, seed: int = 0) -> None:
    """What the job's teachers say of train and valid: some words of the target language."""
    data = made.data(0)
    data.setup()
    for number, (name, teacher) in enumerate(made.teachers().items()):
        for split in ("train", "valid"):
            corpus = data.corpus(split)
            writer = DistilledWriter(teacher.distilled_folder() / split, corpus, name)
            said = data.tgt_vocabulary.encode(sentences(len(corpus), 100 + seed + number, _TGT))
            for part in writer.missing():
                writer.write(part, [said[row] for row in writer.rows(part)])
            writer.finish()


def random_run(root: Path, *overrides: str, seed: int = 0, data: Sequence[str] | None = None) -> Path:
    """The folder of a run on that text whose model has random weights and whose results are made up."""
    made = text_job(root, *overrides, data=data)
    data = made.data(0)
    data.setup()
    run = made.run
    run.start(OmegaConf.to_yaml(made.cfg, resolve=True), made.command)
    run.keep_vocabulary(data.preparation.stages()["vocabulary"].folder)
    MadeFrom.of(data).keep(run.folder)
    weights = _shaken(made.module(data), seed).state_dict()
    write_whole({name: value.clone() for name, value in weights.items()}, run.folder / "averaged.pt")
    run.finish(
        {
            "experiment": run.experiment,
            "data": run.data,
            "key": run.key,
            "seed": run.seed,
            "updates": 8,
            "parameters": sum(value.numel() for value in weights.values()),
            **provenance(made.command),
            "test": {"tokenised_bleu": 12.345, "nat_loss_raw_bits_per_token": 2.5},
            "valid": {"tokenised_bleu": 13.5},
            "signatures": {"tokenised_bleu": SIGNATURE},
        }
    )
    return run.folder


def asks_a_teacher(run: Path) -> Path:
    """The same run as if it had been trained with decoding=npd, without the teacher that this takes."""
    config = OmegaConf.load(run / "config.yaml")
    choice = {"_target_": "mple.decoding.npd.TeacherScore", "teacher": "base"}
    OmegaConf.update(
        config, "decoding", {"_target_": "mple.decoding.decode.Decode", "choice": choice}, merge=False
    )
    OmegaConf.save(config, run / "config.yaml")
    return run
