"""The order of the commands, resuming, and what a failing command does; nothing is trained."""

import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from pathlib import Path

import pytest

from experiments import reproduce
from experiments.paper_items.runs import EVALUATE, PREDICT, TRAIN, Study
from mple.checks import UserError
from tests.experiments import fake


class Pretended:
    """Takes commands and makes the runs and reports that they would; `failing` names commands that fail."""

    def __init__(self, outputs: Path, failing: str = "never") -> None:
        self.outputs, self.failing = outputs, failing
        self.given: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> int:
        self.given.append(list(command))
        if self.failing in command:
            return 3
        words = dict(word.lstrip("+").partition("=")[::2] for word in command if "=" in word)
        if "+experiment=input_predictor" in command:
            fake.predictor(Path(words["of"]))
            assert Path(words["vanilla"], "metrics.json").exists()
            return 0
        if command[1] == "train.py":
            text = "_kd" if words["experiment"] == "at_kd" else ""
            sizes = f"at_{words['size']}{text}" if "size" in words else words["experiment"]
            folder = fake.make_run(
                self.outputs,
                words.get("name", sizes),
                int(words["seed"]),
                words.get("data.name", words.get("data", "grammar")),
                overrides=" ".join(command[3:-1]),
                bleu=20 + len(self.given) / 10,
            )
            (folder / "last.ckpt").touch()
            return 0
        if command[2].endswith(".likelihood"):
            loss = fake.ends("nat_loss_raw", "bits_per_token", 2.0, 0.1)
            fake.evaluate(Path(command[3]), "likelihood", **loss)
            return 0
        if command[1] == "-m":
            grid = [[1.0, 2.0], [3.0, 4.0]]
            metrics = {"a": [0, 1], "b": [0, 1], "corners": [[0, 0], [2, 0], [1, 3]], "sentences": 9}
            metrics |= {"nat_loss_bits_per_token": grid, "bleu": grid}
            fake.evaluate(Path(command[3]), "plane", **metrics)  # type: ignore[arg-type]
            return 0
        run = Path(words["run"])
        assert (run / "metrics.json").exists(), command
        name = words.get("estimator", "text")
        chosen: dict[str, object] = fake.LPD if "decoding=length_parallel" in command else fake.TARGETS  # type: ignore[assignment]
        if name == "latency":
            chosen = {"estimator": {"at": words["estimator.at"], "batch_sizes": [1], "sentences": 200}}
        if name == "total_correlation":
            chosen = {"estimator": {"at": words["estimator.at"]}}
        fake.evaluate(run, name, chosen, tokenised_bleu=20.0, total_correlation_bits_per_token=1.0)
        return 0


def test_trainings_come_first_and_what_others_need_before_them(tmp_path: Path) -> None:
    entries = reproduce.missing(Study(tmp_path, seeds=2))
    kinds = [entry.stage for entry in entries]
    assert kinds == sorted(kinds)
    assert set(kinds) == {TRAIN, PREDICT, EVALUATE}
    names = [entry.command[2].removeprefix("+experiment=") for entry in entries if entry.stage == TRAIN]
    seeds = [entry.command[-1] for entry in entries if entry.stage == TRAIN]
    assert seeds == sorted(seeds)
    for seed in ("seed=1", "seed=2"):
        own = [name for name, of in zip(names, seeds, strict=True) if of == seed]
        assert own.index("vanilla_raw") > max(i for i, name in enumerate(own) if name == "at")
        assert own.index("oaxe_300k") > own.index("vanilla_kd")
        assert {"glat_dynkd_noreg", "cmlm_fixed", "glat_raw", "axe_tau10"} <= set(own)
    assert len({entry.command for entry in entries}) == len(entries)


@pytest.mark.parametrize("jobs", [1, 3])
def test_it_runs_to_the_end_and_then_nothing_is_missing(jobs: int, tmp_path: Path) -> None:
    study, call = Study(tmp_path), Pretended(tmp_path)
    assert reproduce.execute(study, None, False, call, jobs) == 0
    assert reproduce.missing(study) == []
    again = Pretended(tmp_path)
    assert reproduce.execute(study, None, False, again) == 0
    assert again.given == []
    assert not any("$(" in word for command in call.given for word in command)


def test_a_run_is_measured_before_the_next_is_trained(tmp_path: Path) -> None:
    call = Pretended(tmp_path)
    assert reproduce.execute(Study(tmp_path, seeds=2), None, False, call) == 0
    stages = [" ".join(command[1:3]) for command in call.given]
    trained = [i for i, command in enumerate(call.given) if command[-1] == "seed=2"]
    of_first = [i for i, command in enumerate(call.given) if any("/seed1" in word for word in command)]
    measured = [i for i in of_first if stages[i].startswith("evaluate.py")]
    assert max(measured) < min(trained)
    for i in measured:
        if "estimator=mple" in call.given[i]:
            run = next(word.removeprefix("run=") for word in call.given[i] if word.startswith("run="))
            predictors = [j for j, command in enumerate(call.given) if f"of={run}" in command]
            assert all(j < i for j in predictors)


def test_what_starts_from_a_run_waits_for_its_end(tmp_path: Path) -> None:
    def able() -> list[str]:
        wanted, started = reproduce.missing(Study(tmp_path)), []
        while (entry := reproduce.next_of(wanted, started)) is not None:
            wanted.remove(entry)
            started.append(entry)
        assert all(entry.stage == TRAIN for entry in started)
        assert [reproduce.rank(entry) for entry in started] == sorted(map(reproduce.rank, started))
        return [str(entry) for entry in started if "name=figure1_" in str(entry)]

    assert [line.count("name=figure1_initial") for line in able()] == [1]
    folder = fake.make_run(tmp_path, "figure1_initial", overrides="updates=333")
    (folder / "metrics.json").rename(folder / "moved.json")
    (folder / "last.ckpt").touch()
    assert len(able()) == 1  # it has a checkpoint, but has not come to its end
    (folder / "moved.json").rename(folder / "metrics.json")
    assert [f"start={folder}/last.ckpt" in line for line in able()] == [True, True]


def test_another_configuration_of_the_same_name_is_not_measured(tmp_path: Path) -> None:
    fake.make_run(tmp_path, "vanilla_kd", overrides="proxy_target.teacher=big", key="22222222")
    call = Pretended(tmp_path)
    assert reproduce.execute(Study(tmp_path), None, False, call) == 0
    assert not any("22222222" in word for command in call.given for word in command)


def test_an_evaluation_that_failed_is_given_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = Pretended(tmp_path, "estimator=confidence")
    assert reproduce.execute(Study(tmp_path), None, True, call, only=["table3"]) == 6
    assert sum("estimator=confidence" in command for command in call.given) == 6
    assert "left out" not in capsys.readouterr().err


def test_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    study = Study(tmp_path)
    with pytest.raises(UserError, match=r"ended with status 3: python train.py '?\+experiment=cmlm"):
        reproduce.execute(study, None, False, Pretended(tmp_path, "+experiment=cmlm"))
    call = Pretended(tmp_path)
    assert reproduce.execute(study, None, False, call) == 0
    assert "+experiment=cmlm" in call.given[0]


def test_keep_going_leaves_out_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, call = Study(tmp_path), Pretended(tmp_path, "+experiment=cmlm")
    assert reproduce.execute(study, None, True, call) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("failed with status 3: python train.py")
    assert said[1:]  # its input predictor and its measurements
    assert all(line.startswith("left out, since it needs one that failed: ") for line in said[1:])
    assert all("cmlm" in line for line in said[1:])
    left = [str(entry) for entry in reproduce.missing(study)]
    assert left
    assert all("cmlm" in line and "cmlm_fixed" not in line for line in left)


def test_a_command_that_makes_nothing_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """train.py says "finished already" of a run whose weights are gone: it must not be left at that."""
    study = Study(tmp_path)
    failed = reproduce.execute(study, None, True, lambda command: 0, only=("table10",))
    assert failed == 4
    lines = capsys.readouterr().err.splitlines()
    assert all(
        line.startswith("failed with status 0, and what it makes is not found: python") for line in lines
    )
    with pytest.raises(UserError, match="what it makes is not found"):
        reproduce.execute(study, None, False, lambda command: 0, only=("table10",))


def test_dry_run_prints_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--outputs", str(tmp_path), "--to", str(tmp_path / "to"), "--dry-run"]
    assert reproduce.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("python train.py +experiment=at size=")
    assert list(tmp_path.iterdir()) == []
    fake.make_all(tmp_path)
    assert reproduce.main(arguments) == 0
    assert all("figure1_" in line for line in capsys.readouterr().out.splitlines())


def test_the_second_pair_is_the_other_direction(tmp_path: Path) -> None:
    lines = [str(entry) for entry in reproduce.missing(Study(tmp_path, data="multi30k_de-en", root="ROOT"))]
    assert any("axe_tau5" in line and "data.src_lang=en data.tgt_lang=de" in line for line in lines)
    assert not any("data.src_lang" in str(entry) for entry in reproduce.missing(Study(tmp_path)))


def test_only_some_items_and_what_these_need(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--outputs", str(tmp_path), "--to", str(tmp_path / "to"), "--only"]
    assert reproduce.main([*arguments, "table1,table10", "--dry-run"]) == 0
    names = {line.split()[2] for line in capsys.readouterr().out.splitlines()}
    assert {"+experiment=at", "+experiment=vanilla_raw", "+experiment=at_kd"} <= names
    assert not any(name.startswith(("+experiment=axe", "+experiment=glat")) for name in names)
    study, only = Study(tmp_path), ["table1", "table10"]
    assert reproduce.execute(study, None, False, Pretended(tmp_path), only=only) == 0
    assert reproduce.missing(study, None, only) == []
    assert reproduce.missing(study) != []
    assert reproduce.main([*arguments, "table10"]) == 0
    assert {path.stem for path in (tmp_path / "to").iterdir()} >= {"table10_grammar", "report"}


def test_wrong_arguments_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["--seeds", "0"], "--seeds must be"),
        (["--data", "x"], "--data must be the name"),
        (["--only", "table1,table6"], "--only takes figure2, "),
        (["--jobs", "0"], "--jobs must be a whole number of at least 1; got 0"),
        (["--budget", "foo"], "--budget must be one of mini, minutes, paper; got 'foo'"),
        (["--data", "multi30k_de-en"], "--root must be the folder of the raw files of multi30k_de-en; got"),
    ):
        assert reproduce.main(["--outputs", str(tmp_path), "--dry-run", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {said}")


def test_commands_give_every_key_once(tmp_path: Path) -> None:
    studies = (Study(tmp_path, degrees=True), Study(tmp_path, data="multi30k_de-en", root="R", budget="mini"))
    for study in studies:
        for entry in reproduce.missing(study):
            keys = [word.partition("=")[0].lstrip("+") for word in entry.command if "=" in word]
            assert len(keys) == len(set(keys)), entry


def test_a_command_is_a_process_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # one of an earlier test has that test's stdout
    script, killed = tmp_path / "script.py", tmp_path / "killed.py"
    script.write_text(
        "import atexit, os, sys, train\n"
        "atexit.register(lambda: print('bye', sys.argv[1], flush=True))\n"
        "print(__name__, sys.argv[1:], 'pid', os.getpid())\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    killed.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with ThreadPoolExecutor(3) as pool:
        given = [["python", str(script), str(status), "with space"] for status in (0, 3, 2, 0, 5, 1)]
        assert list(pool.map(reproduce.run, given)) == [0, 3, 2, 0, 5, 1]
    lines = capfd.readouterr().out.splitlines()
    pids = {line.rpartition(" ")[2] for line in lines if "pid" in line}
    assert len(pids) == 6
    assert str(os.getpid()) not in pids
    assert sum(line.startswith("__main__ ['3', 'with space']") for line in lines) == 1
    assert sorted(line for line in lines if line.startswith("bye")) == [
        f"bye {n}" for n in (0, 0, 1, 2, 3, 5)
    ]
    assert reproduce.run(["python", str(killed)]) == -signal.SIGKILL
    assert reproduce.run(["python", "evaluate.py", "run=nowhere"]) == 2
    assert capfd.readouterr().err.startswith("error: run must be the folder of a finished run")
    assert reproduce.run(["python", "-m", "experiments.paper_items.likelihood", "nowhere"]) == 2
    assert capfd.readouterr().err.startswith("error: ")
    assert reproduce.run(["python", "-m", "experiments.no_such_module"]) != 0


def test_commands_beside_each_other_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    reproduce.share_cores(1)
    assert "OMP_NUM_THREADS" not in os.environ
    reproduce.share_cores(3)
    assert os.environ["OMP_NUM_THREADS"] == "2"
    reproduce.share_cores(8)
    assert os.environ["OMP_NUM_THREADS"] == "2"  # the user's word
