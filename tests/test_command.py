"""A word of a command that nothing can be made of is one line, with what is accepted, and exit status 2."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mple.command import no_choice

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
