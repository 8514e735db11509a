"""What the world around a command refuses: closed and full streams, read-only folders, other encodings."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from mple import explain, export
from mple.checks import UserError
from mple.command import guarded, readable
from mple.evaluate import evaluate
from mple.trained import load
from tests.runs import CONF, random_run, sentences, write_corpus

ROOT = Path(__file__).parents[1]
NOBODY = 65534
SENTENCE = sentences(1)[0]


@pytest.fixture(scope="module")
def outputs() -> Iterator[Path]:
    """A folder with a finished run that everyone can read."""
    folder = Path(tempfile.mkdtemp())
    random_run(folder, "+experiment=vanilla_raw")
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def run(outputs: Path) -> Path:
    (metrics,) = (outputs / "outputs" / "vanilla_raw").rglob("metrics.json")
    return metrics.parent


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """As a plain user who may not write there."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    for path, mode in modes.items():
        path.chmod(mode & 0o555 | (0o555 if path.is_dir() else 0o444))
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


def test_evaluation_of_read_only_run_is_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [f"run={run}", "device=cpu"]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("evaluate", overrides)
        message = (
            r"could not be kept: .*seed1/evaluations/text-.*\.json cannot be written \(Permission denied\)"
        )
        with read_only(run.parents[3]), pytest.raises(UserError, match=message):
            evaluate(cfg, overrides)
    assert "tokenised_bleu" in capsys.readouterr().out
    assert not (run / "evaluations").exists()


def test_read_only_run_is_explained_exported_and_translates(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = Path(tempfile.mkdtemp())
    elsewhere.chmod(0o777)
    with read_only(run.parents[3]):
        with pytest.raises(SystemExit) as ended:
            explain.main([f"run={run}", SENTENCE])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert re.fullmatch(r"error: .*explain.*\(Permission denied\)\n", error)
        explain.main([f"run={run}", SENTENCE, f"to={elsewhere / 'page.html'}"])
        export.main([f"run={run}", f"to={elsewhere / 'model'}", "onnx=false"])
        (expected,) = load(run).translate([SENTENCE])
        assert load(elsewhere / "model").translate([SENTENCE]) == [expected]
        shutil.rmtree(elsewhere / "model")  # a copy of what is read-only can be deleted
    shutil.rmtree(elsewhere)


def test_unreadable_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @guarded
    def main(path: Path) -> None:
        (path / "x").write_text("", encoding="utf-8")

    for path, reason in ((tmp_path / "none", "No such file"), (Path("/dev/null"), "Not a directory")):
        with pytest.raises(SystemExit) as ended:
            main(path)
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith(f"error: {path}/x cannot be read or written ({reason}")


PROGRAM = "from mple.command import guarded\n@guarded\ndef main(a):\n    print('–' * a)\nmain({})\n"


@pytest.mark.parametrize("count", [1, 100_000], ids=["buffered", "at once"])
def test_full_standard_output_is_one_sentence(count: int) -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(count)], cwd=ROOT, stdout=full, stderr=subprocess.PIPE
        )
    expected = "error: standard output (/dev/full) cannot be read or written (No space left on device)\n"
    assert (ended.returncode, ended.stderr.decode()) == (2, expected)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_letters_that_a_terminal_lacks_end_nothing(encoding: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(2)], cwd=ROOT, env=environment, capture_output=True
    )
    assert (ended.returncode, ended.stdout) == (0, b"\\u2013\\u2013\n")


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        capture_output=True,
        env=os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)} | environment,
    )


def test_commands_run_with_closed_output(run: Path, tmp_path: Path) -> None:
    """What they make is a file."""
    page, model = tmp_path / "page.html", tmp_path / "model"
    work = f"""
        "$PYTHON" -m mple.explain run={run} "{SENTENCE}" to={page} >&- <&-
        "$PYTHON" -m mple.export run={run} to={model} onnx=false >&- <&-
        "$PYTHON" -m experiments.collect --outputs {run.parents[3]} --to {tmp_path} >&- <&-
    """
    ended = shell("set -e;" + work)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert all(made.exists() for made in (page, model, tmp_path / "results.md"))


@pytest.mark.slow
def test_run_in_another_locale_is_finished(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")  # with umlauts
    for path in tmp_path.rglob("test.*"):
        path.write_text(path.read_text(encoding="utf-8") + "eine große Straße\n", encoding="utf-8")
    settings = f"+experiment=vanilla_raw data=text data.root={tmp_path}/corpus data.src_lang=de"
    settings += " data.tgt_lang=en data.vocabulary.size=90 data.max_length=30 budget=minutes updates=2"
    settings += f" size=tiny valid_every=2 log_every=1 trainer.accelerator=cpu outputs={tmp_path}/outputs"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = shell(f'"$PYTHON" train.py {settings}', **locale)
    assert (ended.returncode, ended.stderr) == (0, b"")
    (samples,) = tmp_path.rglob("samples.jsonl")
    assert "eine große Straße" in samples.read_text(encoding="utf-8")
    ended = shell(f'"$PYTHON" evaluate.py run={tmp_path}/outputs', **locale)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.slow
def test_train_and_evaluate_run_with_closed_output(tmp_path: Path) -> None:
    settings = "+experiment=vanilla_raw data.source.train=60 data.source.valid=5 data.source.test=5 size=tiny"
    settings += " updates=2 valid_every=2 log_every=1 trainer.accelerator=cpu data.max_length=30"
    ended = shell(f'"$PYTHON" train.py {settings} outputs={tmp_path} >&- <&-')
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert len(list(tmp_path.rglob("metrics.json"))) == 1
    ended = shell(f'"$PYTHON" evaluate.py run={tmp_path} >&- <&-')
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert len(list(tmp_path.rglob("evaluations/text-*.json"))) == 1
    for command in (f"train.py {settings} outputs={tmp_path}", f"evaluate.py run={tmp_path}"):
        ended = shell(f'"$PYTHON" {command} > /dev/full')
        assert ended.returncode == 2
        assert re.fullmatch(r"error: .*/dev/full.*\n", ended.stderr.decode())


@pytest.mark.parametrize(
    ("redirect", "sentence"),
    [
        ("<&-", "stdin must be open, for the lines to translate; it is closed"),
        (">&- </dev/null", "stdout must be open, for their translations; it is closed"),
    ],
)
def test_translate_needs_its_streams(run: Path, redirect: str, sentence: str) -> None:
    ended = shell(f'"$PYTHON" translate.py run={run} {redirect}')
    assert (ended.returncode, ended.stderr.decode()) == (2, f"error: {sentence}\n")


def test_translate_into_full_device_is_one_sentence(run: Path) -> None:
    ended = shell(f'echo "{SENTENCE}" | "$PYTHON" translate.py run={run} > /dev/full')
    assert ended.returncode == 2
    assert ended.stderr.decode().splitlines()[-1] == (
        "error: standard output (/dev/full) cannot be read or written (No space left on device)"
    )


def test_words_that_the_grammar_of_overrides_lacks_are_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    words = ["run=Jürgen", "run=out (1)", "run=run=3", "run=c#", "data.root=~/x y", "outputs=it's"]
    expected = ["run='Jürgen'", "run='out (1)'", "run='run=3'", "run='c#'", "data.root='/home/u/x y'"]
    assert readable(words) == [*expected, r"outputs='it\'s'"]
    unchanged = ["run=a,b", "seed=range(1,3", "x=[d", "x={a: 1", "-m", "name='a(b'", "~data.x", "seed=1,2"]
    assert readable(unchanged) == unchanged


def test_files_are_read_and_written_as_utf_8() -> None:
    """The system's default is another encoding in other locales."""
    sources = [*(ROOT / "mple").rglob("*.py"), *(ROOT / "experiments").rglob("*.py"), *ROOT.glob("*.py")]
    calls = [
        (path.relative_to(ROOT), call)
        for path in sources
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and _is_text_file(call)
    ]
    assert len(calls) > 20
    named = [{keyword.arg for keyword in call.keywords} for _, call in calls]
    lacking = zip(calls, named, strict=True)
    assert [f"{path}:{call.lineno}" for (path, call), names in lacking if "encoding" not in names] == []


def _is_text_file(call: ast.Call) -> bool:
    """Whether a call opens a file as text, as far as its words tell."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if name in ("read_text", "write_text"):
        return isinstance(call.func, ast.Attribute) and owner != "files"
    if name != "open" or owner in ("os", "gzip", "Finished", "Corpus", "Distilled"):
        return False
    constants = [node.value for node in (*call.args, *(k.value for k in call.keywords if k.arg == "mode"))
                 if isinstance(node, ast.Constant)]  # fmt: skip
    modes = [str(value) for value in constants if re.fullmatch("[rwaxbt+]+", str(value))]
    return not any("b" in mode for mode in modes)
