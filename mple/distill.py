"""Distillation: a teacher's beam search over a corpus, in parts, so that an interrupted one continues."""

import time
from pathlib import Path

import numpy as np
import torch

from mple.data.candidates import DistilledWriter
from mple.data.corpus import tracked
from mple.data.datamodule import TranslationData
from mple.decoding.beam import Beam
from mple.model.autoregressive import Autoregressive
from mple.processes import is_first, share, wait_until
from mple.types import PAD


def distill(
    model: Autoregressive,
    data: TranslationData,
    split: str,
    folder: Path,
    teacher: str,
    decoding: Beam,
    max_tokens: int,
    precision: torch.dtype,
    part_size: int = 4096,
) -> float | None:
    """Write the teacher's target of every sentence of a split into `folder`; the processes of a run share it.

    Returns sentences per second of this process, or None when all was there already. Each sentence's target
    is a function of the sentence and the teacher alone, whatever batch it was decoded in (up to rounding in
    bf16).
    """
    writer = DistilledWriter(folder, data.corpus(split), teacher, part_size)
    if writer.is_finished():
        return None
    device = next(model.parameters()).device
    model.eval()
    began, sentences = time.perf_counter(), 0
    missing = writer.missing()
    # Of parts that are the same for all processes: what is missing changes while they come by.
    parts = [part for part in share(writer.parts) if part in missing]
    label = f"distilling {split} with {teacher}, parts of {part_size}"
    for part in tracked(parts, label) if is_first() else parts:
        rows = writer.rows(part)
        targets: dict[int, np.ndarray] = {}
        for batch in data.batches(split, rows, max_tokens=max_tokens):
            with torch.inference_mode(), torch.autocast(device.type, precision, precision != torch.float32):
                found = decoding(model, batch.src_tokens.to(device))
            for line, ids in zip(batch.ids.tolist(), found.tokens.cpu().numpy(), strict=True):
                targets[line] = ids[ids != PAD]
        lines = data.corpus(split).lines[rows]
        writer.write(part, [targets[int(line)] for line in lines])
        sentences += len(rows)
    if not is_first():
        wait_until(writer.is_finished)
        return None
    wait_until(lambda: not writer.missing())
    writer.finish()
    return sentences / (time.perf_counter() - began)
