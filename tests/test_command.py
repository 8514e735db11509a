"""A word of a command that nothing can be made of is one line, with what is accepted, and exit status 2."""

import re
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

import mple.resolvers  # noqa: F401  (conf/ uses them)
from mple.command import as_typed, no_choice

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train.py +experiment=glat_dinkd", r"experiment must be one of at, at_kd, .*; got 'glat_dinkd'"),
        (
            "train.py +experiment=vanilla_kd proxy_target.delta=1",
            "'proxy_target.delta'.*'delta' is not in struct",
        ),
        ("train.py data=null", r"data must be one of grammar, .*; got data=null"),
        ("train.py +experiment=at optimizer=3", r"optimizer must be one of adam; got optimizer=3"),
        ("evaluate.py run=RUN estimator=null", r"estimator must be one of .*mple.*; got estimator=null"),
        (
            "translate.py run=RUN +n_bset=3",
            r"a setting must be one of bucket, .*n_best, .*; got \+n_bset=3",
        ),
        ("train.py seed=[", "no viable alternative at input"),
        (
            "evaluate.py run=RUN decoding=gredy",
            r"decoding must be one of argmax, beam, greedy, .*; got 'gredy'",
        ),
        ("evaluate.py run=RUN estimator=mpl", r"estimator must be one of .*mple.*; got 'mpl'"),
        (
            "translate.py run=RUN decoding=lenght_parallel",
            r"decoding must be one of .*; got 'lenght_parallel'",
        ),
    ],
)
def test_a_wrong_word_is_one_line(command: str, said: str, tmp_path: Path) -> None:
    script, *words = command.split()
    ended = subprocess.run(
        [sys.executable, str(ROOT / script), *words, *(["outputs=."] if script == "train.py" else [])],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert line.startswith("error: ")
    assert re.search(said, line), line
    assert ended.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["-m", "data=null"], "data=null"),
        (["--config-name=input_predictor", "of=RUN", "decoding=null"], "decoding=null"),
        (["objective={label_smoothing: 0.2}", "data=grammar,null"], "data=grammar,null"),
        (["logger=[csv,wandb]", "data='5'", "optimizer=5"], "optimizer=5"),
        (["-m", "data=grammar,text", "optimizer.lr=interval(0.1,0.2)", "~logger", "seed=["], None),
    ],
)
def test_the_word_that_is_no_choice_is_found(words: list[str], wrong: str | None) -> None:
    found = no_choice(words)
    assert (found is None) == (wrong is None)
    assert found is None or found.endswith(f"; got {wrong}")


@pytest.mark.parametrize(
    "value", ["no", "nan", "1e3", "on", "0x1", "null", "~", "007", "true", "1_0", "zh-TW", "7"]
)
@pytest.mark.parametrize("key", ["name", "data.name", "data.tgt_lang", "data.source.src_lang"])
def test_text_arrives_as_it_was_typed(key: str, value: str) -> None:
    (word,) = as_typed([f"{key}={value}"])
    languages = ("data=text", "data.root=x", "data.src_lang=de", "data.tgt_lang=en")
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra.compose("train", [*languages, word])
    assert OmegaConf.select(cfg, key) == value
    stored = OmegaConf.create(OmegaConf.to_yaml(cfg, resolve=True))  # a run's config.yaml
    assert OmegaConf.select(stored, key) == value
    assert as_typed([word]) == [word]


def test_other_overrides_stay_as_they_are() -> None:
    words = ["-m", "seed=1,2", "data.tgt_lang=de,fr", "data.name='1e3'", "name=${size}", "seed=null"]
    assert as_typed(words) == words
    assert as_typed(["data.name=1e3,b,null"]) == ["data.name='1e3',b,'null'"]


def test_a_language_that_hydra_reads_as_a_number_reaches_its_files(tmp_path: Path) -> None:
    words = ["data=text", f"data.root={tmp_path}", "data.src_lang=nan", "data.tgt_lang=1e3"]
    shown = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words, "--cfg", "job", "--resolve"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout
    data = yaml.safe_load(shown)["data"]
    assert (data["source"]["src_lang"], data["source"]["tgt_lang"]) == ("nan", "1e3")
    assert data["name"] == "text_nan-1e3"
    assert data["vocabulary"]["segment"] == {"nan": "jieba"}  # Min Nan
