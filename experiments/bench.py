"""How fast, and how large: every speed figure of the docs comes from here.

    make bench                                              # everything, on generated text
    make bench MULTI30K=FOLDER                              # on Multi30k
    python -m experiments.bench training --multi30k FOLDER  # one section
    python -m experiments.bench --help

Sections:

    training      target tokens per second, a step against the floor's, the E-step's share, peak memory
    fairseq       training beside fairseq's, of the same text (asks for --fairseq, an interpreter that has it)
    steps         what an update of every NAT of the tables costs beside the vanilla one's, at `budget=mini`
    alignments    the E-steps of AXE, OaXE and glancing beside a plain loss, 64 × 30 and 256 × 60, V 8,000
    distillation  a teacher's beam search, sentences per second
    bleu          sentence BLEU, pairwise and with several references, against sacreBLEU called one by one
    data          raw text to batches, lines per second
    memory        peak memory of preparing 50,000 and 2 million pairs and of an epoch of their batches

Machines are noisy, so what is compared is interleaved: every round takes each variant for a few updates on
the same batches, and the ratios are of one round. Shown are medians over rounds with their quartiles
(`torch.utils.benchmark.Measurement`). Results go to `outputs/bench/<section>.json` and `.md`.

Model: d_model 256, d_ff 1024, 3 + 3 layers, 4 heads, vocabulary 4,000, batches of 4,096 tokens. Two floors:
`floor` is this project's own model in a bare loop (forward, loss, backward, clip, Adam; no Lightning, no log,
no E-step); `torch.nn` is the same architecture from PyTorch's own layers, cross-entropy and dropout.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import track
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.benchmark import Measurement, TaskSpec

from experiments.fairseq import METHODS, Fairseq
from experiments.paper_items import table2, table3
from mple import bleu, checks
from mple.backend import linear_cross_entropy
from mple.backend.cpu.memory import keep_memory
from mple.checks import UserError
from mple.command import guarded
from mple.decoding.beam import Beam
from mple.launch import Job, hardware_has_bf16, precision_of, quiet
from mple.model.autoregressive import Autoregressive
from mple.model.nat import NAT
from mple.modules.update import UpdateModule
from mple.objective.cross_entropy import CrossEntropy
from mple.proxy_input.glancing import Glancing
from mple.proxy_target import laid_out
from mple.proxy_target.axe import AXE
from mple.proxy_target.oaxe import OaXE, assignment
from mple.proxy_target.raw import Raw
from mple.randomness import Draws
from mple.run import commit
from mple.snapshot import Snapshot
from mple.types import EOS, MASK, PAD, Batch, DecoderInput, DecoderOutput, Target

console = Console(width=120, highlight=False)
SIZE = "{d_model: 256, d_ff: 1024, encoder_layers: 3, decoder_layers: 3, num_heads: 4, dropout: 0.1}"
TRAINED: tuple[str, ...] = ("at", "vanilla_raw", "glat_kd", "glat_dynkd", "axe_tau5", "oaxe_10k")
TRAINED += ("glat_levenshtein", "glat_pref")
TEACHERS = ("tiny", "small", "base", "big")
STEPS: tuple[str, ...] = tuple(dict.fromkeys((*table2.ROWS.values(), *table3.ROWS.values())))
STEPS += ("vanilla_dynkd", "vanilla_dynkd_noreg", "glat_raw", "glat_dynkd", "glat_dynkd_noreg")


# --- inputs -------------------------------------------------------------------------------------------


def generated_text(folder: Path, pairs: int, seed: int = 1) -> None:
    """Files in the layout of `data=text`: Zipfian words, lengths as in Multi30k (mean 12, at most 40)."""
    if (folder / f"train.{pairs}.done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(letters[rng.integers(0, 26, n)]) for n in 1 + rng.poisson(4, 12_000)])
    share = 1 / (np.arange(len(words)) + 3.0)
    cumulative = np.cumsum(share / share.sum())
    for split, count in (("train", pairs), ("valid", 500), ("test", 500)):
        with (
            (folder / f"{split}.aa").open("w", encoding="utf-8") as src,
            (folder / f"{split}.bb").open("w", encoding="utf-8") as tgt,
        ):
            for start in range(0, count, 10_000):
                size = min(10_000, count - start)
                length = np.clip(np.rint(rng.lognormal(math.log(11), 0.35, size)), 3, 40).astype(int)
                for file, shift in ((src, 0), (tgt, rng.integers(-2, 3, size))):
                    lengths = np.clip(length + shift, 2, 42)
                    drawn = words[np.searchsorted(cumulative, rng.random(lengths.sum()))]
                    ends = np.cumsum(lengths)
                    file.writelines(" ".join(s) + "\n" for s in np.split(drawn, ends[:-1]))
    (folder / f"train.{pairs}.done").touch()


def overrides(arguments: argparse.Namespace) -> list[str]:
    """The data's part of a command line."""
    common = [f"outputs={arguments.out}", f"trainer.precision={arguments.precision}"]
    common += [f"data.vocabulary.size={arguments.vocabulary}"]
    if arguments.budget is None:
        common += [f"+sizes.bench={SIZE}", "size=bench", "max_tokens=4096"]
    else:
        common += [f"budget={arguments.budget}"]
    if arguments.multi30k:
        return ["data=multi30k", f"data.root={arguments.multi30k}", *common]
    folder = arguments.out / "text"
    generated_text(folder, 29_000)
    languages = ["data.src_lang=aa", "data.tgt_lang=bb"]
    return ["data=text", f"data.root={folder}", *languages, *common]


def job(experiment: str, arguments: argparse.Namespace) -> Job:
    given = [f"+experiment={experiment}", "start=null", *overrides(arguments)]
    return Job(hydra.compose("train", given), given)


def some_updates(made: Job, count: int) -> list[list[Batch]]:
    """The first updates of a training run, with made-up candidates: the reference with a token dropped or
    doubled, of one to three lengths, so that the E-step does the work it does on distilled data."""
    data = made.data(1)
    data.setup()
    loader = iter(data.train_dataloader())
    rng = np.random.default_rng(0)
    return [[with_candidates(batch, rng) for batch in next(loader)] for _ in range(count)]


def with_candidates(batch: Batch, rng: np.random.Generator) -> Batch:
    reference = functional.pad(batch.tgt_tokens, (0, 1), value=PAD)
    lengths = batch.tgt_lengths.unsqueeze(1)
    made = []
    for change in (-1, 0, 0, 1):
        wanted = torch.where(lengths + change < 1, lengths, lengths + change)
        place = torch.from_numpy(rng.integers(0, 1000, (len(batch), 1))) % lengths
        index = torch.arange(reference.shape[1]).unsqueeze(0)
        source = torch.where(index > place, index - change, index.expand(len(batch), -1)).clamp(
            0, reference.shape[1] - 1
        )
        made.append(torch.where(index < wanted, reference.gather(1, source), PAD))
    candidates = torch.stack([*made, reference], 1)
    scores = torch.from_numpy(rng.uniform(20, 100, (len(batch), 5, 5)).astype(np.float32))
    return dataclasses.replace(
        batch, tgt_candidates=candidates, candidate_scores=scores, candidate_names=(*TEACHERS, "raw")
    )


def only(batch: Batch, names: tuple[str, ...]) -> Batch:
    """The batch with the candidates that a method asks for, or none."""
    assert batch.tgt_candidates is not None
    assert batch.candidate_scores is not None
    if not names:
        return dataclasses.replace(batch, tgt_candidates=None, candidate_scores=None, candidate_names=())
    index = torch.tensor([batch.candidate_names.index(name) for name in names])
    return dataclasses.replace(
        batch,
        tgt_candidates=batch.tgt_candidates[:, index],
        candidate_scores=batch.candidate_scores[:, index][:, :, index],
        candidate_names=names,
    )


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# --- training -----------------------------------------------------------------------------------------


class Clock(pl.Callback):
    """Seconds of every update, and of the E-step in it."""

    def __init__(self) -> None:
        self.updates: list[float] = []
        self.e_step: list[float] = []
        self._e_step = 0.0

    def wrap(self, proxy: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            synchronise()
            began = time.perf_counter()
            found = proxy(*arguments)
            synchronise()
            self._e_step += time.perf_counter() - began
            return found

        return timed

    def on_train_batch_start(self, *_: Any) -> None:
        synchronise()
        self._began, self._e_step = time.perf_counter(), 0.0

    def on_train_batch_end(self, *_: Any) -> None:
        synchronise()
        self.updates.append(time.perf_counter() - self._began)
        self.e_step.append(self._e_step)


class Ours:
    """A method as `train.py` runs it: its LightningModule in a Trainer."""

    def __init__(self, experiment: str, arguments: argparse.Namespace) -> None:
        self.job = job(experiment, arguments)
        data = self.job.data(1)
        data.setup()
        self.module: UpdateModule = self.job.module(data)
        self.names = self.job.candidates
        self._proxy = getattr(self.module, "proxy", None)

    def run(self, updates: list[list[Batch]]) -> tuple[list[float], list[float]]:
        clock = Clock()
        if self._proxy is not None:
            self.module.proxy = clock.wrap(self._proxy)  # type: ignore[assignment]
        mine = [[only(batch, self.names) for batch in update] for update in updates]
        trainer = pl.Trainer(
            max_steps=len(mine),
            precision=self.job.precision,  # type: ignore[arg-type]
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            devices=1,
        )
        trainer.fit(self.module, torch.utils.data.DataLoader(mine, batch_size=None))  # type: ignore[arg-type]
        return clock.updates, clock.e_step


class Bare:
    """The same model in a loop with nothing around it."""

    def __init__(self, ours: Ours) -> None:
        self.model = ours.module.model
        self.precision = ours.job.precision
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def nats(self, batch: Batch) -> Tensor:
        model = self.model
        encoder_out = model.encode(batch.src_tokens)  # type: ignore[operator]
        if isinstance(model, Autoregressive):
            labels = model.labels(batch.tgt_tokens)
            output = model.decode(model.prefixes(batch.tgt_tokens), encoder_out)
            counts = labels != PAD
            return linear_cross_entropy(output.features[counts], output.weight, labels[counts], 0.1)[0]
        assert isinstance(model, NAT)
        lengths = batch.tgt_lengths
        output = model.decode(model.blank(lengths), encoder_out)
        counts = batch.tgt_tokens != PAD
        nats = linear_cross_entropy(output.features[counts], output.weight, batch.tgt_tokens[counts], 0.1)[0]
        return nats + model.length.loss(encoder_out, lengths)["length"].total

    def run(self, updates: list[list[Batch]]) -> tuple[list[float], list[float]]:
        self.model.to(self.device).train()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        seconds = []
        for update in updates:
            synchronise()
            began = time.perf_counter()
            optimizer.zero_grad()
            for batch in update:
                batch = batch.to(self.device)  # type: ignore[assignment]
                with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16-mixed"):
                    loss = self.nats(batch) / batch.tgt_lengths.sum()
                loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            synchronise()
            seconds.append(time.perf_counter() - began)
        return seconds, []


class TorchLayers(nn.Module):
    """The architecture in PyTorch's own layers."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        common: dict[str, Any] = {"dropout": 0.1, "batch_first": True, "norm_first": True}
        self.tokens, self.positions = nn.Embedding(vocabulary, 256), nn.Embedding(256, 256)
        layer = nn.TransformerEncoderLayer(256, 4, 1024, **common)
        self.encoder = nn.TransformerEncoder(layer, 3, nn.LayerNorm(256), enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(256, 4, 1024, **common), 3, nn.LayerNorm(256)
        )
        self.dropout = nn.Dropout(0.1)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.tokens(tokens) * 16 + self.positions.weight[: tokens.shape[1]])

    def forward(self, src: Tensor, tgt: Tensor, causal: bool) -> Tensor:
        hidden = torch.ones(tgt.shape[1], tgt.shape[1], dtype=torch.bool, device=tgt.device).triu(1)
        memory = self.encoder(self.embed(src), src_key_padding_mask=src == PAD)
        states = self.decoder(
            self.embed(tgt),
            memory,
            tgt_mask=hidden if causal else None,
            tgt_is_causal=causal,
            tgt_key_padding_mask=None if causal else tgt == PAD,
            memory_key_padding_mask=src == PAD,
        )
        return functional.linear(states, self.tokens.weight)


class TorchFloor(Bare):
    """`TorchLayers` in a bare loop with PyTorch's own cross-entropy."""

    def __init__(self, ours: Ours) -> None:
        super().__init__(ours)
        self.is_causal = isinstance(ours.module.model, Autoregressive)
        self.model = TorchLayers(ours.module.model.decoder.embedding.tokens.num_embeddings)  # type: ignore[union-attr, arg-type]

    def nats(self, batch: Batch) -> Tensor:
        tokens = batch.tgt_tokens
        if self.is_causal:
            labels = functional.pad(tokens, (0, 1), value=PAD)
            labels = labels.scatter(1, batch.tgt_lengths.unsqueeze(1), EOS)
            inputs = functional.pad(labels[:, :-1], (1, 0), value=1)
        else:
            labels, inputs = tokens, torch.where(tokens == PAD, PAD, 4)
        logits = self.model(batch.src_tokens, inputs, self.is_causal)
        return functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=PAD, label_smoothing=0.1, reduction="sum"
        )


def measured(values: list[float]) -> Measurement:
    """Per-round figures as PyTorch's benchmark tool summarises them."""
    spec = TaskSpec(stmt="", setup="", num_threads=torch.get_num_threads())
    return Measurement(number_per_run=1, raw_times=values, task_spec=spec)


def summary(values: list[float]) -> dict[str, float]:
    found = measured(values)
    low, high = np.percentile(values, [25, 75])
    return {"median": found.median, "low": float(low), "high": float(high), "rounds": len(values)}


def training(arguments: argparse.Namespace) -> dict[str, Any]:
    names = tuple(arguments.experiments or TRAINED)
    methods: dict[str, Any] = {name: Ours(name, arguments) for name in dict.fromkeys((*names, "vanilla_raw"))}
    methods = {
        **methods,
        "floor, NAT": Bare(Ours("vanilla_raw", arguments)),
        "torch.nn, NAT": TorchFloor(methods["vanilla_raw"]),
    }
    if "at" in methods:
        methods |= {
            "floor, AT": Bare(Ours("at", arguments)),
            "torch.nn, AT": TorchFloor(methods["at"]),
        }
    updates = some_updates(methods["vanilla_raw"].job, arguments.updates + 1)
    tokens = [sum(int(batch.tgt_lengths.sum()) for batch in update) for update in updates][1:]
    speed: dict[str, list[float]] = {name: [] for name in methods}
    share: dict[str, list[float]] = {name: [] for name in methods}
    for _ in track(range(arguments.rounds), "training, rounds", console=console):
        for name, method in methods.items():
            seconds, e_step = method.run(updates)
            speed[name].append(sum(tokens) / sum(seconds[1:]))  # the first update warms up
            share[name].append(sum(e_step[1:]) / sum(seconds[1:]) if e_step else 0.0)
    rows = {}
    vanilla = np.array(speed["vanilla_raw"])
    for name in methods:
        own = "AT" if name == "at" or name.endswith(", AT") else "NAT"
        floor = np.array(speed[f"floor, {own}"])
        rows[name] = {
            "tokens_per_second": summary(speed[name]),
            "of_floor": summary(list(np.array(speed[name]) / floor)),
            "times_vanilla_step": summary(list(vanilla / np.array(speed[name]))),
        }
        if any(share[name]):
            rows[name]["e_step_share"] = summary(share[name])
        if isinstance(methods[name], Ours):
            rows[name]["peak_megabytes"] = {"median": peak_memory(name, arguments)}
    return rows


FAIRSEQ = (
    "--max-tokens 4096 --optimizer adam --adam-betas (0.9,0.98) --lr 5e-4 --lr-scheduler inverse_sqrt "
    "--warmup-updates 100 --clip-norm 1.0 --dropout 0.1 --label-smoothing 0.1 --share-all-embeddings "
    "--encoder-learned-pos --decoder-learned-pos --encoder-embed-dim 256 --decoder-embed-dim 256 "
    "--encoder-ffn-embed-dim 1024 --decoder-ffn-embed-dim 1024 --encoder-layers 3 --decoder-layers 3 "
    "--encoder-attention-heads 4 --decoder-attention-heads 4"
)


def fairseq(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both in turn, each with its own batches of at most 4,096 tokens, fairseq in float32."""
    names = tuple(arguments.experiments or METHODS)
    if unknown := [name for name in names if name not in METHODS]:
        raise UserError(f"--experiments of fairseq must be among {', '.join(METHODS)}; got {unknown[0]}")
    methods = {name: Ours(name, arguments) for name in names}
    data = methods[names[0]].job.data(1)
    data.setup()
    corpus, rows = data.corpus("train"), np.arange(len(data.corpus("train")))
    peer = Fairseq(arguments.fairseq, arguments.out / "fairseq", FAIRSEQ, torch.get_num_threads())
    with console.status("fairseq binarises the text"):
        peer.prepare({"train": (corpus.src(rows), corpus.tgt(rows))}, len(data.tgt_vocabulary))
    updates = some_updates(methods[names[0]].job, arguments.updates + 1)
    tokens = sum(int(batch.tgt_lengths.sum()) for update in updates[1:] for batch in update)
    speed: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for _ in track(range(arguments.rounds), "beside fairseq, rounds", console=console):
        for name, method in methods.items():
            speed[name][0].append(tokens / sum(method.run(updates)[0][1:]))  # the first update warms up
            speed[name][1].append(peer.tokens_per_second(name, arguments.updates))
    return {
        name: {
            "tokens_per_second": summary(ours),
            "fairseq_tokens_per_second": summary(theirs),
            "times_fairseq": summary(list(np.array(ours) / np.array(theirs))),
        }
        for name, (ours, theirs) in speed.items()
    }


def show_fairseq(rows: dict[str, Any]) -> list[list[str]]:
    table = [["", "target tokens/s", "fairseq", "times"]]
    for name, row in rows.items():
        speeds = [row["tokens_per_second"], row["fairseq_tokens_per_second"]]
        cells = [f"{c['median']:,.0f} ({c['low']:,.0f}–{c['high']:,.0f})" for c in speeds]
        times = row["times_fairseq"]
        table.append([name, *cells, f"{times['median']:.2f} ({times['low']:.2f}–{times['high']:.2f})"])
    return table


def steps(arguments: argparse.Namespace) -> dict[str, Any]:
    arguments = argparse.Namespace(**{**vars(arguments), "budget": "mini"})
    names = dict.fromkeys((*(arguments.experiments or STEPS), "vanilla_raw"))
    methods = {name: Ours(name, arguments) for name in names}
    updates = some_updates(methods["vanilla_raw"].job, arguments.updates + 1)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in track(range(arguments.rounds), "steps, rounds", console=console):
        for name, method in methods.items():
            seconds[name].append(float(np.mean(method.run(updates)[0][1:])))  # the first update warms up
    vanilla = np.array(seconds["vanilla_raw"])
    return {
        name: {
            "milliseconds": summary([1000 * value for value in found]),
            "times_vanilla_step": summary(list(np.array(found) / vanilla)),
        }
        for name, found in seconds.items()
    }


def show_steps(rows: dict[str, Any]) -> list[list[str]]:
    table = [["", "ms an update", "× vanilla step"]]
    for name, row in rows.items():
        spent, times = row["milliseconds"], row["times_vanilla_step"]
        table.append(
            [
                name,
                f"{spent['median']:,.0f} ({spent['low']:,.0f}–{spent['high']:,.0f})",
                f"{times['median']:.2f} ({times['low']:.2f}–{times['high']:.2f})",
            ]
        )
    return table


def peak_memory(experiment: str, arguments: argparse.Namespace) -> float:
    """Of a process that makes a few updates and nothing else; of the accelerator where there is one."""
    command = [sys.executable, "-m", "experiments.bench", "one", "--experiments", experiment]
    command += ["--out", str(arguments.out), "--precision", arguments.precision]
    command += ["--vocabulary", str(arguments.vocabulary)]
    command += ["--multi30k", str(arguments.multi30k)] if arguments.multi30k else []
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return float(lines[-1])


def one(arguments: argparse.Namespace) -> None:
    method = Ours(arguments.experiments[0], arguments)
    method.run(some_updates(method.job, 4))
    if torch.cuda.is_available():
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print(megabytes("VmHWM"))  # not ru_maxrss, which a process inherits from the one that started it


def show_training(rows: dict[str, Any]) -> list[list[str]]:
    head = ["", "target tokens/s", "of its floor", "× vanilla step", "E-step share", "peak MB"]
    table = [head]
    for name, row in rows.items():
        speed = row["tokens_per_second"]
        table.append(
            [
                name,
                f"{speed['median']:,.0f} ({speed['low']:,.0f}–{speed['high']:,.0f})",
                f"{row['of_floor']['median']:.2f}",
                f"{row['times_vanilla_step']['median']:.2f}",
                f"{row['e_step_share']['median']:.0%}" if "e_step_share" in row else "–",
                f"{row['peak_megabytes']['median']:,.0f}" if "peak_megabytes" in row else "–",
            ]
        )
    return table


# --- alignments ---------------------------------------------------------------------------------------


def alignments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of what a method computes on given features: its E-step, and then the loss, forward and
    backward. The look-ahead's decoder pass, which all but the first need, is in `training`."""
    rows = {}
    for sentences, longest in ((64, 30), (256, 60)):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(longest // 2, longest + 1, (sentences,), generator=generator)
        is_canvas = torch.arange(longest) < lengths.unsqueeze(1)
        tokens = torch.randint(6, 8000, is_canvas.shape, generator=generator).masked_fill(~is_canvas, PAD)
        weight = torch.randn(8000, 256, generator=generator) / 16
        features = weight[tokens] * 3 + torch.randn(*is_canvas.shape, 256, generator=generator)
        features, weight = features.to(device).requires_grad_(), weight.to(device).requires_grad_()
        reference = laid_out(tokens.to(device))
        blank = DecoderInput(
            torch.where(reference.counts, MASK, PAD), revealed=torch.zeros_like(reference.counts)
        )
        ids = torch.arange(sentences, device=device)
        batch = Batch(ids, src_tokens=reference.tokens, tgt_tokens=reference.tokens)
        output = DecoderOutput(features, weight)

        def look(output: DecoderOutput = output, blank: DecoderInput = blank, ids: Tensor = ids) -> Snapshot:
            seen = DecoderOutput(output.features.detach(), output.weight.detach())
            lengths = blank.is_canvas.sum(1)
            nothing: Any = NoModel()
            return Snapshot(nothing, nothing, ids, lengths, Draws(1, 1), 0, 1, seen, blank)

        def shown(rule: Glancing, batch: Batch = batch, reference: Target = reference) -> DecoderInput:
            return rule(batch, reference, look())

        e_steps: dict[str, Callable[[], Target | DecoderInput]] = {
            "cross-entropy alone": lambda reference=reference: reference,  # type: ignore[misc]
            "AXE, δ = 5": lambda reference=reference: AXE(Raw(), delta=5).align(reference, look()),  # type: ignore[misc]
            "OaXE": lambda reference=reference: OaXE(Raw()).align(reference, look()),  # type: ignore[misc]
            "glancing": lambda: shown(Glancing()),
            "glancing, Levenshtein": lambda: shown(Glancing(distance="levenshtein")),
            "glancing, P_ref": lambda: shown(Glancing(choice="p_ref")),
        }
        costs = 10 * torch.rand(sentences, longest, longest, generator=generator)

        def at_once(costs: Tensor = costs, free: Tensor = is_canvas, reference: Target = reference) -> Target:
            assignment(costs, free)
            return reference

        def one_by_one(
            costs: Tensor = costs, free: Tensor = is_canvas, reference: Target = reference
        ) -> Target:
            for cost, length in zip(costs.numpy(), free.sum(1).tolist(), strict=True):
                linear_sum_assignment(cost[:length, :length])
            return reference

        e_steps |= {"OaXE's assignment alone": at_once, "SciPy's, sentence by sentence": one_by_one}
        loss = CrossEntropy(label_smoothing=0.1)
        precision = hardware_has_bf16()
        times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in e_steps}
        for _ in track(range(arguments.rounds + 1), f"alignments {sentences} × {longest}", console=console):
            for name, e_step in e_steps.items():
                with torch.autocast(device.type, torch.bfloat16, precision):
                    synchronise()
                    began = time.perf_counter()
                    found = e_step()
                    synchronise()
                    middle = time.perf_counter()
                    target = found if isinstance(found, Target) else reference
                    nats = loss(output, target, blank)["nats"].total
                nats.backward()
                synchronise()
                times[name][0].append(1000 * (middle - began))
                times[name][1].append(1000 * (time.perf_counter() - middle))
        for name, (own, trained) in times.items():
            rows[f"{sentences} × {longest}, {name}"] = {
                "e_step_milliseconds": summary(own[1:]),  # the first round warms up
                "loss_milliseconds": summary(trained[1:]),
            }
    return rows


class NoModel(nn.Module):
    """Stands where a snapshot's model stands; the snapshot already has the model's output."""


def show_alignments(rows: dict[str, Any]) -> list[list[str]]:
    table = [["", "E-step, ms", "loss and gradient, ms"]]
    for name, row in rows.items():
        cells = [row["e_step_milliseconds"], row["loss_milliseconds"]]
        table.append([name, *(f"{c['median']:.1f} ({c['low']:.1f}–{c['high']:.1f})" for c in cells)])
    return table


# --- distillation -------------------------------------------------------------------------------------


class EndsInTime:
    """An AT whose every sequence ends at a tenth more than its source: an untrained model would not end."""

    def __init__(self, model: Autoregressive) -> None:
        self.model, self.max_length = model, model.max_length

    def start(self, src_tokens: Tensor) -> Any:
        self.step_of, self.lengths = 0, ((src_tokens != PAD).sum(1).float() * 1.1).long()
        return self.model.start(src_tokens)

    def step(self, last_tokens: Tensor, state: Any) -> Tensor:
        log_probs = self.model.step(last_tokens, state).clone()
        self.step_of += 1
        log_probs[:, EOS] = 0.0 if self.step_of > int(self.lengths.max()) else -1e4
        return log_probs


def distillation(arguments: argparse.Namespace) -> dict[str, Any]:
    ours = Ours("at", arguments)
    data = ours.job.data(1)
    model = ours.module.model.eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    batches = list(data.batches("train", np.arange(1000), max_tokens=4096))
    rows = {}
    for beam in (1, 5):
        rates = []
        for _ in track(range(arguments.rounds), f"distillation, beam {beam}", console=console):
            synchronise()
            began = time.perf_counter()
            for batch in batches:
                with (
                    torch.inference_mode(),
                    torch.autocast(device, torch.bfloat16, ours.job.precision == "bf16-mixed"),
                ):
                    Beam(beam=beam)(EndsInTime(model), batch.src_tokens.to(device))  # type: ignore[arg-type]
            synchronise()
            rates.append(1000 / (time.perf_counter() - began))
        rows[f"beam {beam}"] = {"sentences_per_second": summary(rates)}
    return rows


def show_rates(rows: dict[str, Any]) -> list[list[str]]:
    key = next(iter(next(iter(rows.values()))))
    table = [["", key.replace("_", " ")]]
    for name, row in rows.items():
        rate = row[key]
        table.append([name, f"{rate['median']:,.0f} ({rate['low']:,.0f}–{rate['high']:,.0f})"])
    return table


# --- sentence BLEU ------------------------------------------------------------------------------------


def bleu_section(arguments: argparse.Namespace) -> dict[str, Any]:
    from sacrebleu.metrics import BLEU

    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(200)]
    sentences = [[" ".join(rng.choice(words, rng.integers(8, 20))) for _ in range(5)] for _ in range(2000)]
    candidates = [list(column) for column in zip(*sentences, strict=True)]  # K lists of sentences
    peer = BLEU(effective_order=True, tokenize="13a")
    hypotheses, references = candidates[0], [row[1:] for row in sentences]

    def pairs() -> int:
        bleu.pairwise_bleu(candidates, "13a")
        return 2000 * 25

    def pair_by_pair() -> int:
        for row in sentences[:40]:
            for reference in row:
                for hypothesis in row:
                    peer.sentence_score(hypothesis, [reference])
        return 40 * 25

    def several() -> int:
        bleu.multi_reference_bleu(hypotheses, references, "13a")
        return 2000

    def one_by_one() -> int:
        for hypothesis, of_it in zip(hypotheses[:250], references, strict=False):
            peer.sentence_score(hypothesis, of_it)
        return 250

    ways = {
        "pairwise": (pairs, pair_by_pair),
        "four references": (several, one_by_one),
    }
    rates: dict[str, list[float]] = {}
    for ours, _ in ways.values():
        ours()  # compiles
    for _ in track(range(arguments.rounds), "bleu", console=console):
        for name, (ours, theirs) in ways.items():
            for label, work in ((name, ours), (f"{name}, sacreBLEU", theirs)):
                began = time.perf_counter()
                count = work()
                rates.setdefault(label, []).append(count / (time.perf_counter() - began))
    for name in ways:
        rates[f"{name}, ratio"] = list(np.array(rates[name]) / np.array(rates[f"{name}, sacreBLEU"]))
    return {name: {"scores_per_second": summary(found)} for name, found in rates.items()}


# --- data ---------------------------------------------------------------------------------------------


def prepare(pairs: int, out: Path) -> Iterator[tuple[str, float]]:
    """Prepare a generated corpus and read an epoch of its batches; yields (what, seconds)."""
    folder = out / f"text{pairs}"
    generated_text(folder, pairs)
    arguments = argparse.Namespace(out=out / f"prepared{pairs}", multi30k=None)
    given = ["+experiment=vanilla_raw", "data=text", f"data.root={folder}", "data.src_lang=aa"]
    given += ["data.tgt_lang=bb", "data.vocabulary.size=4000", f"outputs={arguments.out}", "max_tokens=4096"]
    made = Job(hydra.compose("train", given), given)
    began = time.perf_counter()
    data = made.data(1)
    data.setup()
    yield "prepare", time.perf_counter() - began
    began = time.perf_counter()
    loader, seen = iter(data.train_dataloader()), 0
    while seen < len(data.corpus("train")):
        seen += sum(len(batch) for batch in next(loader))
    yield "epoch", time.perf_counter() - began


def data_section(arguments: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, list[float]] = {"prepare": [], "epoch": []}
    for _ in track(range(min(arguments.rounds, 3)), "data", console=console):
        shutil.rmtree(arguments.out / "prepared50000", ignore_errors=True)
        for what, seconds in prepare(50_000, arguments.out):
            rows[what].append(50_000 / seconds)
    names = {"prepare": "raw text to Arrow, BPE learned", "epoch": "an epoch of batches"}
    return {names[k]: {"lines_per_second": summary(v)} for k, v in rows.items()}


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak resident memory of a process of its own for each size; private, without the mapped files. BPE is
    learned on a sample of a million pairs (`data.vocabulary.sample`): from there on it does not grow."""
    rows: dict[str, Any] = {}
    for pairs in (50_000, arguments.pairs // 2, arguments.pairs):
        generated_text(arguments.out / f"text{pairs}", pairs)
        shutil.rmtree(arguments.out / f"prepared{pairs}", ignore_errors=True)
        command = [sys.executable, "-m", "experiments.bench", "prepared", "--pairs", str(pairs)]
        command += ["--out", str(arguments.out)]
        with console.status(f"preparing {pairs:,} pairs"):
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        rows[f"{pairs:,} pairs"] = json.loads(lines[-1])
        if pairs > 50_000:
            shutil.rmtree(arguments.out / f"prepared{pairs}", ignore_errors=True)
            shutil.rmtree(arguments.out / f"text{pairs}", ignore_errors=True)
    return rows


def prepared(arguments: argparse.Namespace) -> None:
    """What a process of `memory` does: prints its figures as JSON. RssAnon is what it takes for itself, the
    files that it has mapped left out."""
    import threading

    peak, stop = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.02):
            peak = max(peak, megabytes("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = megabytes("RssAnon")
    seconds = dict(prepare(arguments.pairs, arguments.out))
    stop.set()
    watcher.join()
    found = {"private_megabytes_at_start": started, "private_megabytes_peak": peak}
    found |= {f"{what}_seconds": value for what, value in seconds.items()}
    print(json.dumps(found | {"lines_per_second": arguments.pairs / seconds["prepare"]}))


def megabytes(key: str) -> float:
    """A line of the kernel's account of this process."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key + ":")) / 1024


def show_memory(rows: dict[str, Any]) -> list[list[str]]:
    table = [["", "MB at start", "MB at its peak", "prepare, s", "epoch, s", "lines/s"]]
    for name, row in rows.items():
        start, peak = row["private_megabytes_at_start"], row["private_megabytes_peak"]
        seconds = [f"{row['prepare_seconds']:.0f}", f"{row['epoch_seconds']:.0f}"]
        table.append([name, f"{start:.0f}", f"{peak:.0f}", *seconds, f"{row['lines_per_second']:,.0f}"])
    return table


# --- the command --------------------------------------------------------------------------------------

SECTIONS: dict[str, tuple[Callable[[argparse.Namespace], dict[str, Any]], Callable[..., list[list[str]]]]] = {
    "training": (training, show_training),
    "fairseq": (fairseq, show_fairseq),
    "steps": (steps, show_steps),
    "alignments": (alignments, show_alignments),
    "distillation": (distillation, show_rates),
    "bleu": (bleu_section, show_rates),
    "data": (data_section, show_rates),
    "memory": (memory, show_memory),
}
INSIDE = {"one": one, "prepared": prepared}
"""Sections that only a section calls, in a process of its own."""


def markdown(table: list[list[str]]) -> str:
    rule = ["---" if k == 0 else "---:" for k in range(len(table[0]))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [table[0], rule, *table[1:]])


def machine() -> dict[str, Any]:
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        device = names[0] if names else platform.processor()
    return {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}


@guarded
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench",
        description=__doc__.split("\n")[0],
        epilog="Sections: " + ", ".join(SECTIONS),
    )
    parser.add_argument("sections", nargs="*", metavar="section", help="which; all by default")
    parser.add_argument("--multi30k", type=Path, help="folder of Multi30k; generated text without it")
    parser.add_argument("--rounds", type=int, default=5, help="times that each variant is taken")
    parser.add_argument("--updates", type=int, default=6, help="updates of a variant in a round")
    parser.add_argument("--pairs", type=int, default=2_000_000, help="sentence pairs of `memory`")
    help_ = f"methods of `training` ({', '.join(TRAINED)}), `steps` or `fairseq` ({', '.join(METHODS)})"
    parser.add_argument("--experiments", nargs="+", help=help_)
    parser.add_argument(
        "--precision", choices=("auto", "32-true", "bf16-mixed"), default="auto", help="of training"
    )
    parser.add_argument("--vocabulary", type=int, default=4000, help="pieces of both languages together")
    parser.add_argument("--fairseq", metavar="PYTHON", help="interpreter that has fairseq, for `fairseq`")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"), help="where results go")
    parser.set_defaults(budget=None)  # whose sizes: none but in `steps`
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.sections if name not in {**SECTIONS, **INSIDE}]
    if unknown:
        parser.error(f"a section must be one of {', '.join(SECTIONS)}; got {unknown[0]!r}")
    if "fairseq" in arguments.sections and not arguments.fairseq:
        parser.error("fairseq must be given an interpreter that has it, --fairseq PYTHON; got none")
    if arguments.multi30k and not arguments.multi30k.is_dir():
        parser.error(f"--multi30k must be a folder; got {arguments.multi30k}")
    for name in ("rounds", "updates", "pairs", "vocabulary"):
        checks.whole(f"--{name}", getattr(arguments, name), 1)
    if arguments.fairseq and shutil.which(arguments.fairseq) is None:
        raise UserError(f"--fairseq must be an interpreter that has fairseq; got {arguments.fairseq}")
    quiet()
    keep_memory()
    arguments.out = arguments.out.resolve()
    with checks.writes("--out", arguments.out):
        arguments.out.mkdir(parents=True, exist_ok=True)
    with hydra.initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        default = [name for name in SECTIONS if name != "fairseq" or arguments.fairseq]
        for name in arguments.sections or default:
            if name in INSIDE:
                INSIDE[name](arguments)
                continue
            measure, show = SECTIONS[name]
            rows = measure(arguments)
            about = {
                **machine(),
                "commit": commit(),
                "date": time.strftime("%Y-%m-%d"),
                "load": os.getloadavg(),
            }
            about["data"] = "Multi30k De-En" if arguments.multi30k else "generated text"
            about["precision of training"] = precision_of(arguments.precision)
            result = {"section": name, "about": about, "rows": rows}
            (arguments.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            text = markdown(show(rows))
            (arguments.out / f"{name}.md").write_text(text + "\n", encoding="utf-8")
            about["vocabulary"] = arguments.vocabulary
            shown = [about["device"], f"{about['threads']} threads", about["data"]]
            if name in ("training", "fairseq", "steps"):
                shown.append(about["precision of training"])
            console.print(f"\n[bold]{name}[/] ({', '.join(shown)})")
            console.print(text, soft_wrap=True)


if __name__ == "__main__":
    main()
