"""Measure the plane in weight space through three checkpoints of finished runs, for Figure 1.

    python -m experiments.paper_items.plane INITIAL MLE GLAT          # three runs' folders

    θ(a, b) = θ0 + a (θ1 − θ0) + b (θ2 − θ0)

on a grid of (a, b), where θ0 is the last checkpoint of INITIAL, θ1 of MLE, θ2 of GLAT. At each point: L_NAT
of the references (bits per token) and the BLEU of default decoding, of evenly spaced validation sentences.
Written to INITIAL/evaluations/plane-<settings>.json.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mple import start
from mple.checks import UserError, whole
from mple.command import answered
from mple.files import write_json
from mple.language import language
from mple.run import provenance

SENTENCES, POINTS, REACH = 200, 7, 0.25
"""Sentences measured; points of the grid in each direction; how far beyond 0 and 1 the grid goes.
With 7 points (or 13) the corners are points of the grid."""


@dataclass(frozen=True)
class Plane:
    """The three corners' weights, by name."""

    initial: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]

    def at(self, a: float, b: float) -> dict[str, Tensor]:
        """θ(a, b); what is no floating-point number is θ0's."""

        def mixed(name: str, origin: Tensor) -> Tensor:
            if not origin.is_floating_point():
                return origin
            return (1 - a - b) * origin + a * self.first[name] + b * self.second[name]

        return {name: mixed(name, value) for name, value in self.initial.items()}

    def corners(self) -> list[list[float]]:
        """Where the three lie in the plane, in orthonormal coordinates: distances are of the weights."""
        names = [name for name, value in self.initial.items() if value.is_floating_point()]

        def direction(to: dict[str, Tensor]) -> Tensor:
            return torch.cat([(to[name] - self.initial[name]).double().flatten() for name in names])

        u, v = direction(self.first), direction(self.second)
        length = float(u.norm())
        if length == 0:
            raise UserError("the three checkpoints must differ; the first two are the same")
        along = float(v @ u) / length
        return [[0.0, 0.0], [length, 0.0], [along, math.sqrt(max(0.0, float(v @ v) - along**2))]]


def measure(folders: Sequence[Path], sentences: int = SENTENCES, points: int = POINTS) -> dict[str, Any]:
    """The grid: `a`, `b`, and the matrices `nat_loss_bits_per_token` and `bleu`, rows b, columns a.

    Raises:
        UserError: a folder is no finished run of a NAT, or too few sentences or points.
    """
    from sacrebleu.metrics import BLEU

    from mple.evaluation.finished import Finished
    from mple.modules.non_autoregressive import NonAutoregressive
    from mple.proxy_target import laid_out

    whole("--sentences", sentences, 2)
    whole("--points", points, 2)
    run, *others = [Finished.open(folder, "cpu") for folder in folders]
    module: Any = run.module
    if not isinstance(module, NonAutoregressive):
        raise UserError(f"the plane is one of non-autoregressive runs; got {run.name}")
    weights = [start.read(one.folder / "last.ckpt") for one in (run, *others)]
    for one, found in zip((run, *others), weights, strict=True):
        start.check(found, module.state_dict(), one.folder / "last.ckpt")
    plane = Plane(*weights)
    lines, _, references = run.data.text("valid")
    place = {int(line): row for row, line in enumerate(lines)}
    step = max(1, len(lines) // sentences)
    batches = []
    for batch in run.batches("valid"):
        rows = [i for i, line in enumerate(batch.ids.tolist()) if place[line] % step == 0]
        if rows:
            chosen = [references[place[batch.ids.tolist()[i]]] for i in rows]
            batches.append((batch.src_tokens[rows], batch.tgt_tokens[rows], chosen))
    axis = np.linspace(-REACH, 1 + REACH, points)
    shape = (points, points)
    losses, scores = np.zeros(shape), np.zeros(shape)
    wanted = [reference for _, _, chosen in batches for reference in chosen]
    metric = BLEU(tokenize=language(run.job.source.tgt_lang).bleu_tokenizer)
    with torch.no_grad():
        for row, b in enumerate(axis):
            for column, a in enumerate(axis):
                module.load_state_dict(plane.at(float(a), float(b)))
                nats, tokens, outputs = 0.0, 0, []
                for src, tgt, _ in batches:
                    target = laid_out(tgt)
                    encoder_out = module.model.encode(src)
                    decoded = module.model.decode(module.model.blank(target.lengths), encoder_out)
                    log_probs = decoded.logits_at(target.counts).float().log_softmax(-1)
                    labels = target.tokens[target.counts].unsqueeze(1)
                    nats -= float(log_probs.gather(1, labels).double().sum())
                    tokens += len(labels)
                    outputs += run.data.decode(module.decoding(module.model, src).tokens)
                losses[row, column] = nats / tokens / math.log(2)
                scores[row, column] = metric.corpus_score(outputs, [wanted]).score
    return {
        "a": axis.tolist(),
        "b": axis.tolist(),
        "corners": plane.corners(),
        "nat_loss_bits_per_token": losses.tolist(),
        "bleu": scores.tolist(),
        "sentences": len(wanted),
    }


@answered
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.paper_items.plane", description=(__doc__ or "").splitlines()[0]
    )
    for name in ("initial", "mle", "glat"):
        parser.add_argument(name, type=Path, help=f"folder of the finished run {name}")
    parser.add_argument(
        "--sentences", type=int, default=SENTENCES, help=f"of the validation set ({SENTENCES})"
    )
    parser.add_argument(
        "--points", type=int, default=POINTS, help=f"of the grid in each direction ({POINTS})"
    )
    options = parser.parse_args(arguments)
    folders = [options.initial, options.mle, options.glat]
    settings = {"runs": [str(folder) for folder in folders], "points": options.points}
    settings |= {"sentences": options.sentences}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    import hydra

    with hydra.initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        found = measure(folders, options.sentences, options.points)
    path = options.initial / "evaluations" / f"plane-{key}.json"
    path.parent.mkdir(exist_ok=True)
    command = " ".join(["python -m experiments.paper_items.plane", *map(str, folders)])
    report = {"run": str(options.initial), **provenance(command), "settings": settings, "metrics": found}
    write_json(path, report)
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
