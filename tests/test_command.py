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
from mple.checks import UserError
from mple.command import OUT_OF_MEMORY, added, answered, as_typed, guarded, key_values, no_choice

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
        ("train.py =5", "an override must be KEY=VALUE; got =5"),
        ("train.py hydra/launcher=5", "Config group override must be a string or a list. Got int"),
        ("train.py hydra.run.dir=/proc/x", r"hydra.run.dir .* can be written; got /proc/x \(No such file"),
        ("train.py hydra.job.chdir=true", "hydra.job.chdir must be false: .*; got true"),
        ("train.py seed=1 seed=2", "seed must be given once; got seed=1 and seed=2"),
        ("evaluate.py run=A run=B", "run must be given once; got run=A and run=B"),
        ("translate.py run=A run=B", "run must be given once; got run=A and run=B"),
        (
            "translate.py run=A decoding.beam=3 +decoding.beam=4",
            r"decoding.beam must be given once; got \+\+dec",
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


def test_settings_of_a_decoding_are_given_with_and_without_plus() -> None:
    words = ["run=x", "decoding=npd", "decoding.lengths.beam=3", "+decoding.deduplicate=token", "n_best=2"]
    wanted = ["++decoding.lengths.beam=3", "++decoding.deduplicate=token"]
    assert added(words, ["decoding"]) == ["run=x", "decoding=npd", *wanted, "n_best=2"]
    assert added(words, []) == words


DEFAULTS = {"to": None, "top": 5, "force": False}


def test_key_values_have_the_type_of_their_default() -> None:
    assert key_values(["to=a=b", "force=True"], DEFAULTS) == ({"to": "a=b", "top": 5, "force": True}, [])
    assert key_values(["top=7", "2 + 2 = 4"], DEFAULTS, "a sentence")[1] == ["2 + 2 = 4"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["to=a", "to=b"], "to must be given once; got to=a and to=b"),
        (["to=", "to=b"], "to must be given once; got to= and to=b"),
        (["to="], "to must be a text on one line; got ''"),
        (["to=a\nb"], r"to must be a text on one line; got 'a\nb'"),
        (["top=-1"], "top must be a whole number; got '-1'"),
        (["force=1"], "force must be true or false; got '1'"),
        (["tpo=1"], "an argument must be one of to=, top=, force=; got 'tpo=1'"),
        (["a sentence"], "an argument must be one of to=, top=, force=; got 'a sentence'"),
    ],
)
def test_invalid_key_values_raise(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        key_values(arguments, DEFAULTS)
    assert str(caught.value) == sentence


OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA: 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_out_of_memory_is_one_sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    @guarded
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {OUT_OF_MEMORY}\n"
    assert "smaller max_tokens" in OUT_OF_MEMORY


def test_other_errors_keep_their_trace() -> None:
    @guarded
    def main() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        main()


def test_a_refusal_has_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    @answered
    def main(status: int) -> int:
        if status:
            return status
        raise UserError("--jobs must be 1; got 0")

    assert [main(1), main(0)] == [1, 2]
    assert capsys.readouterr().err == "error: --jobs must be 1; got 0\n"


@pytest.mark.slow
def test_training_without_enough_memory_is_one_sentence(tmp_path: Path) -> None:
    words = ["+experiment=vanilla_raw", "data=grammar", "max_tokens=2000000", "sizes.student.d_ff=65536"]
    few = [f"data.source.{split}=5000" for split in ("train", "valid", "test")]
    ended = subprocess.run(
        ["prlimit", "--as=4000000000", sys.executable, str(ROOT / "train.py"), *words, *few],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr.splitlines()[-1] == f"error: {OUT_OF_MEMORY}"
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 2
