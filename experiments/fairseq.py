"""fairseq's training speed on the same text, for `python -m experiments.bench fairseq`.

    peer = Fairseq("fairseq/bin/python", folder, "--max-tokens 4096 --optimizer adam", threads=2)
    peer.prepare({"train": (sources, targets)}, vocabulary=4000)     # the same pieces, binarised by fairseq
    peer.tokens_per_second("vanilla_raw", updates=8)

fairseq is a process of its own, with an interpreter of its own: its pins do not go with ours.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mple.checks import UserError

Pieces = Iterable[np.ndarray]
"""The piece ids of every sentence of one side."""
_INNER = re.compile(r"\| train_inner \| (\{.*\})")
_AT = "--task translation --arch transformer --criterion label_smoothed_cross_entropy"
_NAT = "--task translation_lev --criterion nat_loss --apply-bert-init"
METHODS: Mapping[str, tuple[str, int]] = {
    "at": (_AT, 1),
    "vanilla_raw": (
        f"{_NAT} --arch nonautoregressive_transformer --noise full_mask --pred-length-offset "
        "--length-loss-factor 0.1",
        2,
    ),
    "cmlm": (f"{_NAT} --arch cmlm_transformer --noise random_mask", 2),
}
"""Our experiment -> fairseq's options, and how many symbols it counts in a sentence beyond its content (eos;
for its NATs bos too)."""


@dataclass(frozen=True)
class Fairseq:
    """A fairseq beside us.

    python: an interpreter that can import it.
    folder: where its binarised text goes.
    options: of every training, as on its command line: the size, the batch, the optimiser.

    Raises:
        UserError: the interpreter has no fairseq, or fairseq ended with an error; its last lines are shown.
    """

    python: str
    folder: Path
    options: str
    threads: int

    def prepare(self, text: Mapping[str, tuple[Pieces, Pieces]], vocabulary: int) -> None:
        """Write and binarise token ids, split -> (sources, targets), with `vocabulary` types for both."""
        shutil.rmtree(self.folder, ignore_errors=True)  # fairseq writes over nothing
        self.folder.mkdir(parents=True)
        for split, sides in text.items():
            for name, sentences in zip(("src", "tgt"), sides, strict=True):
                lines = (" ".join(f"t{piece}" for piece in ids) + "\n" for ids in sentences)
                (self.folder / f"{split}.{name}").write_text("".join(lines), encoding="utf-8")
        (self.folder / "dict.txt").write_text(
            "".join(f"t{piece} 1\n" for piece in range(vocabulary)), encoding="utf-8"
        )
        named = [f"--{split}pref {self.folder / split}" for split in text]
        files = f"--destdir {self.folder / 'bin'} --joined-dictionary --srcdict {self.folder / 'dict.txt'}"
        self._run("fairseq_cli.preprocess", f"{_LANGUAGES} {files} {' '.join(named)}")

    def tokens_per_second(self, method: str, updates: int) -> float:
        """Content tokens of the target a second over `updates` updates, after as many that warm up."""
        given, extra = METHODS[method]
        once = f"{self.folder / 'bin'} {_LANGUAGES} --max-update {2 * updates} --disable-validation --no-save"
        quiet = "--log-format json --log-interval 1 --num-workers 0 --seed 1"
        cpu = "" if torch.cuda.is_available() else "--cpu"
        log = self._run("fairseq_cli.train", f"{once} {quiet} {cpu} {self.options} {given}")
        return rate(log.splitlines(), extra, updates)

    def _run(self, module: str, arguments: str) -> str:
        command = [self.python, "-m", module, *arguments.split()]
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
        except OSError as error:
            raise UserError(
                f"--fairseq must be an interpreter; got {self.python} ({error.strerror})"
            ) from None
        log = done.stdout + done.stderr
        if done.returncode:
            tail = "\n".join(log.splitlines()[-5:])
            raise UserError(f"{self.python} -m {module} ended with status {done.returncode}:\n{tail}")
        return log


_LANGUAGES = "--source-lang src --target-lang tgt"


def rate(log: Sequence[str], extra: int, updates: int) -> float:
    """Content tokens a second over the last `updates` updates of a log of single updates in JSON.

    Raises:
        UserError: the log has fewer updates.
    """
    found = [json.loads(match[1]) for line in log if (match := _INNER.search(line))]
    if len(found) < updates:
        raise UserError(f"fairseq's log must have {updates} updates; got {len(found)}")
    tokens = seconds = 0.0
    for update in found[-updates:]:
        tokens += float(update["wpb"]) - extra * float(update["bsz"])
        seconds += float(update["wpb"]) / float(update["wps"])
    return tokens / seconds
