"""What we ask of a fairseq beside us, and how its log is read; a script stands where fairseq would."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import bench
from experiments.fairseq import METHODS, Fairseq, rate
from mple.checks import UserError


def line(wpb: float, bsz: float, wps: float) -> str:
    found = {"loss": "9.1", "wps": f"{wps}", "wpb": f"{wpb}", "bsz": f"{bsz}"}
    return f"2026-11-29 12:00:00 | INFO | train_inner | {json.dumps(found)}"


def test_rate_counts_content_of_the_last_updates() -> None:
    """Two updates of 3,000 and 4,000 symbols in 2 s and 1 s, 200 and 300 sentences."""
    log = [line(9000, 1, 1), "epoch 1", line(3000, 200, 1500), line(4000, 300, 4000)]
    assert rate(log, extra=1, updates=2) == pytest.approx((2800 + 3700) / 3)
    assert rate(log, extra=2, updates=2) == pytest.approx((2600 + 3400) / 3)
    with pytest.raises(UserError, match="must have 4 updates; got 3"):
        rate(log, extra=1, updates=4)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """An interpreter that writes down its arguments and threads, and says what a training would say."""
    path = tmp_path / "python"
    said = "\n".join(line(100, 10, 50) for _ in range(4))
    path.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        f"open({str(tmp_path / 'calls')!r}, 'a').write(os.environ['OMP_NUM_THREADS'] + ' ' + "
        "' '.join(sys.argv[1:]) + '\\n')\n"
        "if '--arch cmlm_transformer' in ' '.join(sys.argv):\n    sys.exit('no such architecture')\n"
        f"print('''{said}''', file=sys.stderr)\n"
    )
    path.chmod(0o755)
    return path


def test_fairseq_gets_our_pieces_and_says_its_speed(stand_in: Path, tmp_path: Path) -> None:
    peer = Fairseq(str(stand_in), tmp_path / "peer", "--max-tokens 4096", threads=2)
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "of another text").touch()
    sources, targets = [np.array([7, 5]), np.array([6])], [np.array([5]), np.array([6, 6, 7])]
    peer.prepare({"train": (sources, targets)}, vocabulary=8)
    assert sorted(file.name for file in (tmp_path / "peer").iterdir()) == [
        "dict.txt",
        "train.src",
        "train.tgt",
    ]
    assert (tmp_path / "peer" / "train.src").read_text() == "t7 t5\nt6\n"
    assert (tmp_path / "peer" / "train.tgt").read_text() == "t5\nt6 t6 t7\n"
    types = [entry.split()[0] for entry in (tmp_path / "peer" / "dict.txt").read_text().splitlines()]
    assert {"t5", "t6", "t7"} <= set(types)
    assert len(types) == 8
    assert peer.tokens_per_second("at", updates=2) == pytest.approx(45)
    assert peer.tokens_per_second("vanilla_raw", updates=2) == pytest.approx(40)
    with pytest.raises(UserError, match="status 1:\nno such architecture"):
        peer.tokens_per_second("cmlm", updates=2)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert all(call.startswith("2 -m fairseq_cli.") for call in calls)
    assert "--joined-dictionary" in calls[0]
    assert "--max-update 4 " in calls[1]
    assert "--max-tokens 4096" in calls[1]
    assert METHODS["at"][0] in calls[1]


def test_no_fairseq(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"--fairseq must be an interpreter; got .*nowhere \(No such file"):
        Fairseq(str(tmp_path / "nowhere"), tmp_path / "peer", "", 1).prepare({}, 8)
    with pytest.raises(SystemExit):
        bench.main(["fairseq"])
    assert "--fairseq PYTHON; got none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["training", "--fairseq", "/nope"], "--fairseq must be an interpreter that has fairseq; got /nope"),
        (["--rounds", "0", "bleu"], "--rounds must be a whole number of at least 1; got 0"),
    ],
)
def test_invalid_bench_argument_exits_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"
