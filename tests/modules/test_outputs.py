"""The outputs of a split: in its order, from several processes, and in memory that hardly grows with it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mple.data.vocabulary import WordVocabulary
from mple.modules import outputs as outputs_module
from mple.modules.outputs import Outputs
from mple.types import BLANK, PAD

ROOT = Path(__file__).parents[2]
VOCABULARY = WordVocabulary("abcdefgh")


def decode(tokens: Tensor) -> list[str]:
    return VOCABULARY.decode_all(list(tokens.numpy()))


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_texts_have_the_order_of_the_lines(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs_module, "_CHUNK", chunk)
    draw = np.random.default_rng(0)
    texts = {2 * line: " ".join(draw.choice(list("abcdefgh"), draw.integers(0, 6))) for line in range(20)}
    order = draw.permutation(list(texts))
    parts = []
    for batch in np.array_split(order, 4):
        ids = [torch.tensor([*VOCABULARY.encode([texts[line]])[0].tolist(), BLANK]) for line in batch]
        part = Outputs()
        part.add(torch.tensor(batch), torch.nn.utils.rnn.pad_sequence(ids, batch_first=True))
        parts.append(part)
    together = Outputs.gathered(parts)
    lines = np.array(sorted(texts))
    assert together.texts(lines, decode) == [texts[line] for line in lines.tolist()]
    assert together.texts(np.array([38, 3, 0]), decode) == [texts[38], "", texts[0]]  # 3 was not decoded
    assert Outputs().texts(lines[:2], decode) == ["", ""]


def test_padding_inside_a_row_is_left_out() -> None:
    outputs = Outputs()
    outputs.add(torch.tensor([5]), torch.tensor([[6, PAD, 7, PAD]]))
    assert outputs.texts(np.array([5]), decode) == ["a b"]


MEASURE = """
import resource, sys
from pathlib import Path
import hydra
from hydra.core.global_hydra import GlobalHydra
from mple.evaluation.finished import Finished
from mple.evaluation.text import Text
from mple.launch import trainer_of
from tests.runs import CONF, random_run

root, count, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
data = ["data=grammar", "data.source.train=60", "data.source.valid=20", f"data.source.test={count}"]
folder = random_run(root, "+experiment=vanilla_raw", "decoding=argmax", "max_tokens=4096", data=data)
GlobalHydra.instance().clear()
hydra.initialize_config_dir(str(CONF), version_base="1.3")
run = Finished.open(folder, "cpu")
if what == "evaluate":
    Text()(run)
else:
    trainer = trainer_of(run.job.cfg.trainer, "32-true", 1, 1, [], [])
    trainer.test(run.module, datamodule=run.data, verbose=False)
print("peak", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["evaluate", "test"])
def test_memory_of_an_evaluation_hardly_grows_with_the_sentences(tmp_path: Path, what: str) -> None:
    """Bytes a sentence, of evaluate.py and of the test after training; it was 8,000 to 16,000."""
    peaks = []
    for count in (10_000, 40_000):  # the n-grams of some thousand references are kept
        command = [sys.executable, "-c", MEASURE, str(tmp_path / str(count)), str(count), what]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        (peak,) = re.findall(r"peak (\d+)", printed)
        peaks.append(int(peak))
    assert (peaks[1] - peaks[0]) / 30_000 < 2_000
