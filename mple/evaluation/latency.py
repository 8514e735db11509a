"""How long a NAT takes, and what else would be had in that time: the same sentences, one machine, in turns.

    python evaluate.py run=NAT estimator=latency estimator.at=AT

    latency       seconds from a sentence's ids to its translation's ids, at batch 1
    throughput    sentences / seconds of a pass over all sentences
    speed-up      seconds of the AT with beam 5 / seconds of the system, at batch 1
    floor         one encoder pass and one decoder pass of the NAT, with logits, on canvases of known length

Segmentation is the same for all, so it is not timed; copies to and from the device are.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mple import checks, ctranslate2_export
from mple.bleu import BleuScorer
from mple.checks import UserError
from mple.data.corpus import tracked
from mple.decoding.argmax import Argmax
from mple.decoding.beam import Beam
from mple.decoding.choice import OwnScore
from mple.decoding.decode import Decode
from mple.decoding.lengths import TopLengths
from mple.decoding.npd import TeacherScore
from mple.evaluation.finished import Finished
from mple.evaluation.latency_plot import Report, Row, Spread
from mple.files import read_json
from mple.launch import console
from mple.model.autoregressive import Autoregressive
from mple.model.nat import NAT
from mple.model.transformer import Size
from mple.run import commit, key_of, machine
from mple.trained import Trained, load
from mple.translate import PRECISIONS
from mple.types import EOS, PAD

Ids = list[int]
Rows = np.ndarray
"""Numbers of the sentences of a batch."""

AT_BEAM, ARGMAX, FLOOR = "at_beam5", "nat_argmax", "floor"
CT2_GREEDY = "ct2_float32_greedy"
TURN = 32
"""Sentences (or one batch, if that is larger) that a system decodes before it is the next one's turn."""


# --- measuring -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class System:
    """Something that translates.

    prepare: what `decode` reads, of sentences given by their rows; not timed. decode: timed, returns when all
    is done. finish: the translations' ids, of what `decode` returned; not timed. None for what says nothing.
    """

    name: str
    label: str
    family: str
    prepare: Callable[[Rows], Any]
    decode: Callable[[Any], Any]
    finish: Callable[[Any], list[Ids]] | None


@dataclass(frozen=True)
class Plan:
    """Which batches are decoded, in turns: `turns[i]` is a list of batches, a batch a list of rows."""

    batch_size: int
    turns: tuple[tuple[Rows, ...], ...]

    @staticmethod
    def of(lengths: Int[np.ndarray, "N"], batch_size: int) -> "Plan":
        """Single sentences in the order of the corpus; larger batches are of similar source length, which is
        all that a translator knows, the longest first."""
        rows = np.arange(len(lengths)) if batch_size == 1 else np.argsort(-lengths, kind="stable")
        batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        size = max(1, TURN // batch_size)
        return Plan(batch_size, tuple(tuple(batches[i : i + size]) for i in range(0, len(batches), size)))

    @property
    def batches(self) -> list[Rows]:
        return [batch for turn in self.turns for batch in turn]

    @property
    def turn_of(self) -> Int[np.ndarray, "U"]:
        return np.repeat(np.arange(len(self.turns)), [len(turn) for turn in self.turns])


@dataclass(frozen=True)
class Timing:
    """Seconds of every batch in every pass, and the turn that each batch belongs to."""

    seconds: Float[np.ndarray, "R U"]
    turn_of: Int[np.ndarray, "U"]
    sentences: int

    def latency_ms(self) -> Spread:
        """Over batches: of each the median over passes."""
        return spread(1000 * np.median(self.seconds, 0))

    def rate(self) -> Spread:
        """Sentences per second, over passes."""
        return spread(self.sentences / self.seconds.sum(1))

    def per_turn(self) -> Float[np.ndarray, "R T"]:
        return np.stack([np.bincount(self.turn_of, row) for row in self.seconds])


def spread(values: np.ndarray) -> Spread:
    low, median, high = np.percentile(values, [25, 50, 75])
    return Spread(float(median), float(low), float(high))


def ratio(one: Timing, other: Timing) -> Spread:
    """one / other over turns of all passes: what disturbs the machine for a while disturbs both."""
    return spread((one.per_turn() / other.per_turn()).ravel())


def measure(
    systems: Sequence[System],
    plan: Plan,
    repeats: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
    label: str = "",
) -> tuple[dict[str, Timing], dict[str, dict[int, Ids]]]:
    """Seconds of every system, and its translations by row (of the first pass).

    Each pass goes through the turns, and in each turn every system decodes the turn's batches. What the
    others left in the caches is not held against a system: it first decodes one sentence untimed.
    """
    batches = plan.batches
    seconds = {system.name: np.zeros((repeats, len(batches))) for system in systems}
    said: dict[str, dict[int, Ids]] = {system.name: {} for system in systems if system.finish}
    for system in systems:
        for rows in batches[:warmup]:
            system.decode(system.prepare(rows))
    starts = np.cumsum([0, *map(len, plan.turns)]).tolist()
    turns = list(zip(starts, plan.turns, strict=False))  # the last start is the end
    every = [(number, *turn, system) for number in range(repeats) for turn in turns for system in systems]
    for number, start, turn, system in tracked(every, label):
        inputs = [system.prepare(rows) for rows in turn]
        system.decode(system.prepare(turn[0][:1]))
        for batch, (rows, given) in enumerate(zip(turn, inputs, strict=True), start):
            began = clock()
            found = system.decode(given)
            seconds[system.name][number, batch] = clock() - began
            if number == 0 and system.finish:
                said[system.name] |= zip(rows.tolist(), system.finish(found), strict=True)
    sentences = sum(map(len, batches))
    return {name: Timing(s, plan.turn_of, sentences) for name, s in seconds.items()}, said


# --- systems -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Maker:
    """Makes systems of models; `sources` are the content ids of all sentences."""

    sources: list[np.ndarray]
    device: torch.device
    dtype: torch.dtype

    def ours(self, name: str, label: str, family: str, model: Any, decoding: Any) -> System:
        def decode(src_tokens: Tensor) -> Tensor:
            with torch.inference_mode(), self.autocast():
                return decoding(model, src_tokens.to(self.device)).tokens.cpu()

        return System(name, label, family, self.src_tokens, decode, unpadded)

    def floor(self, model: NAT) -> System:
        """Encoder, decoder and projection, no more; the canvases are those that argmax takes."""

        def prepare(rows: Rows) -> tuple[Tensor, Any]:
            with torch.inference_mode(), self.autocast():
                src_tokens = self.src_tokens(rows)
                lengths, _ = model.length.predict(model.encode(src_tokens.to(self.device)))
                return src_tokens, model.blank(lengths[:, 0])

        def decode(given: tuple[Tensor, Any]) -> Any:
            src_tokens, blank = given
            with torch.inference_mode(), self.autocast():
                logits = model.decode(blank, model.encode(src_tokens.to(self.device))).logits
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                return logits

        return System(FLOOR, "NAT, one encoder and one decoder pass (floor)", "NAT", prepare, decode, None)

    def ctranslate2(self, at: Trained, folder: Path, beams: dict[str, Beam]) -> list[System]:
        """The same weights in CTranslate2.

        Raises:
            UserError: it is not installed, or it cannot run here.
        """
        made = []
        for quantization in ctranslate2_export.QUANTIZATIONS:
            path, size = folder / quantization, at.size
            vocabularies = (at.src_vocabulary, at.tgt_vocabulary)
            ctranslate2_export.write(at.model, size, vocabularies, path, quantization)  # type: ignore[arg-type]
            import ctranslate2

            try:
                translator = ctranslate2.Translator(
                    str(path),
                    device=self.device.type,
                    compute_type=quantization,
                    intra_threads=torch.get_num_threads(),
                )
            except (RuntimeError, ValueError) as error:
                raise UserError(f"CTranslate2 cannot run here: {error}") from None
            for way, beam in beams.items():
                label = f"CTranslate2 {quantization}, {way.replace('beam5', 'beam 5')}"
                made.append(self._translator(f"ct2_{quantization}_{way}", label, translator, at, beam))
        return made

    def _translator(self, name: str, label: str, translator: Any, at: Trained, beam: Beam) -> System:
        pieces, said = (ctranslate2_export.names(v) for v in (at.src_vocabulary, at.tgt_vocabulary))
        id_of = {piece: i for i, piece in enumerate(said)}

        def prepare(rows: Rows) -> tuple[list[list[str]], list[int]]:
            texts = [[pieces[i] for i in self.sources[row]] for row in rows]
            limits = [int(len(text) * beam.max_length_factor + beam.max_length_offset) for text in texts]
            return texts, [min(limit, at.size.max_positions - 1) for limit in limits]

        def decode(given: tuple[list[list[str]], list[int]]) -> Any:
            texts, limits = given
            found = translator.translate_batch(
                texts,
                beam_size=beam.beam,
                length_penalty=beam.length_penalty,
                min_decoding_length=beam.min_length,
                max_decoding_length=max(limits),
            )
            return [result.hypotheses[0][:limit] for result, limit in zip(found, limits, strict=True)]

        return System(
            name, label, "CTranslate2", prepare, decode, lambda f: [[id_of[p] for p in t] for t in f]
        )

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32)

    def src_tokens(self, rows: Rows) -> Int[Tensor, "B S"]:
        """As the models read them, on the host."""
        texts = [torch.from_numpy(np.append(self.sources[row], EOS).astype(np.int64)) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=PAD)


def unpadded(tokens: Int[Tensor, "B L"]) -> list[Ids]:
    return [[i for i in row if i != PAD] for row in tokens.tolist()]


def shallow_layers(size: Size) -> int:
    """Encoder layers of a model with one decoder layer and as many weights as one of `size`.

    An encoder layer has 4d² + 2·d·d_ff weights, a decoder layer 8d² + 2·d·d_ff (biases and norms left out).

    Source: the 12-1 models of Kasai et al. (2021), which have 168 d² and 160 d² (6-6 and 12-1, d_ff = 4d).
    """
    encoder = 4 * size.d_model**2 + 2 * size.d_model * size.d_ff
    decoder = encoder + 4 * size.d_model**2
    return round(size.encoder_layers + (size.decoder_layers - 1) * decoder / encoder)


# --- the estimator -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Latency:
    """Speed and BLEU of a NAT's decodings, of autoregressive models and of CTranslate2, with quartiles.

    at: folder of the autoregressive run that all is compared with (beam 5, keys and values kept); it also
        rescores for NPD and is what CTranslate2 runs.
    shallow: an autoregressive run with one decoder layer, of as many parameters as `at`.
    masks: the run that mask-predict is measured on; None for `run` itself, where it was trained with a partly
        revealed Z.
    split: "valid" or "test". sentences: how many of its first; None for all.
    batch_sizes: 1 and others. repeats: passes. warmup: batches of each size before the first pass.
    precision: "32-true", "bf16-mixed" or "16-mixed", of our models.

    Tables and a picture are put beside the report of evaluate.py, under its name. BLEU is of the sentences
    that were measured.

    Raises:
        UserError: a value out of range, or a run of another kind or vocabulary than it should be.
    """

    decodes: ClassVar[bool] = False
    is_shown: ClassVar[bool] = True

    at: str | None = None
    shallow: str | None = None
    masks: str | None = None
    split: str = "test"
    sentences: int | None = None
    batch_sizes: Sequence[int] = field(default_factory=lambda: [1, 8, 64, 256])
    repeats: int = 3
    warmup: int = 3
    precision: str = "32-true"

    def __post_init__(self) -> None:
        checks.one_of("estimator.split", self.split, ("valid", "test"))
        checks.one_of("estimator.precision", self.precision, PRECISIONS)
        checks.whole("estimator.repeats", self.repeats, 1, "passes", high=1000)
        checks.whole("estimator.warmup", self.warmup, 0, "batches", high=1000)
        if self.sentences is not None:
            checks.whole("estimator.sentences", self.sentences, 1, "sentences", high=100_000_000)
        for size in self.batch_sizes:
            checks.whole("estimator.batch_sizes", size, 1, "sentences", high=100_000)
        if 1 not in self.batch_sizes or len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise UserError(
                f"estimator.batch_sizes must be different numbers and 1 among them; got {self.batch_sizes}"
            )

    def __call__(self, run: Finished) -> dict[str, float]:
        if run.job.proxy is None:
            raise UserError(
                f"estimator=latency compares a NAT (run) with an autoregressive model (estimator.at); "
                f"run={run.folder} is autoregressive: {run.name}"
            )
        if self.at is None:
            raise UserError(
                "estimator.at must name the folder of an autoregressive run on the same data; got none"
            )
        nat = load(run.folder).to(run.device)
        at = self._partner("at", self.at, nat, Autoregressive)
        corpus = run.data.corpus(self.split)
        _, _, references = run.data.text(self.split)
        references = references[: self.sentences]
        sources = corpus.src(np.arange(len(references)))
        maker = Maker(sources, run.device, PRECISIONS[self.precision])
        with tempfile.TemporaryDirectory() as folder:
            systems, rows = self._systems(maker, nat, at, Path(folder))
            timings: dict[int, dict[str, Timing]] = {}
            said: dict[str, dict[int, Ids]] = {}
            lengths = np.array([len(ids) for ids in sources])
            for size in sorted(self.batch_sizes):
                plan = Plan.of(lengths, size)
                timings[size], found = measure(
                    systems, plan, self.repeats, self.warmup, label=f"batches of {size}"
                )
                said = said or found
        scorer = BleuScorer(references, run.source.tgt_lang, run.job.dash_splits)
        bleu = {}
        for name, tokens in said.items():
            texts = nat.tgt_vocabulary.decode_all([tokens[row] for row in range(len(references))])
            bleu[name] = scorer.score(texts)["tokenised_bleu"]
        rows = [*self._rows(systems, timings, bleu), *rows]
        parameters = {"nat": _parameters(nat), "at": _parameters(at)}
        if self.shallow is not None:
            parameters["shallow"] = _parameters(load(self.shallow))
        report = self._report(run, at, rows, timings[1], len(references), parameters)
        console.print(report.table())
        for note in report.footnotes:
            console.print(note)
        settings = {"estimator": {"_target_": f"{__name__}.{type(self).__name__}", **asdict(self)}}
        for path in report.save(run.folder / "evaluations" / f"latency-{key_of(settings)}"):
            console.print(f"in {path}")
        sizes = {f"{name}_parameters": float(count) for name, count in parameters.items()}
        return metrics(rows, timings, len(references), self.repeats) | sizes

    def _partner(self, key: str, folder: str, nat: Trained, kind: type) -> Trained:
        """Another run, of the wanted kind and with the NAT's vocabularies."""
        finished = Finished.open(folder, str(nat.device), f"estimator.{key}")
        other = load(finished.folder).to(nat.device)
        if not isinstance(other.model, kind):
            wanted = "a NAT" if kind is NAT else "an autoregressive model"
            raise UserError(f"estimator.{key} must be the run of {wanted}; got {other.name} in {folder}")
        ours, theirs = ((t.src_vocabulary.fingerprint, t.tgt_vocabulary.fingerprint) for t in (nat, other))
        if ours != theirs:
            raise UserError(
                f"estimator.{key} must have the vocabulary of the run, as runs on the same data do; "
                f"got {other.name} in {folder}"
            )
        return other

    def _systems(
        self, maker: Maker, nat: Trained, at: Trained, folder: Path
    ) -> tuple[list[System], list[Row]]:
        """What can be measured, and rows that say why the rest cannot."""
        assert isinstance(at.decoding, Beam)
        beams = {"greedy": replace(at.decoding, beam=1), "beam5": replace(at.decoding, beam=5)}
        labels = {"greedy": "greedy", "beam5": "beam 5"}
        systems = [
            maker.ours(f"at_{way}", f"AT, {labels[way]}", "AT", at.model, beam) for way, beam in beams.items()
        ]
        rows = []
        if self.shallow is None:
            reason = f"estimator.shallow=RUN is not given; {shallow_command(at)} trains one"
            rows.append(Row("shallow", "shallow-decoder AT", "shallow AT", reason=reason))
        else:
            shallow = self._partner("shallow", self.shallow, nat, Autoregressive)
            name = f"{shallow.size.encoder_layers}-{shallow.size.decoder_layers} AT"
            systems += [
                maker.ours(f"shallow_{way}", f"{name}, {labels[way]}", "shallow AT", shallow.model, beam)
                for way, beam in beams.items()
            ]
        try:
            systems += maker.ctranslate2(at, folder, beams)
        except UserError as error:
            rows.append(Row("ct2", "CTranslate2", "CTranslate2", reason=str(error)))

        three = TopLengths(beam=3)
        lpd = Decode(three, choice=OwnScore(), deduplicate="token")
        npd = Decode(three, choice=TeacherScore().prepared(at.model))  # type: ignore[arg-type]
        model = nat.model
        assert isinstance(model, NAT)
        systems += [
            maker.floor(model),  # beside argmax, so that a disturbance hits both
            maker.ours(ARGMAX, "NAT, argmax", "NAT", model, Argmax()),
            maker.ours("nat_lpd3", "NAT, LPD 3, de-duplicated", "NAT", model, lpd),
            maker.ours("nat_npd3", "NAT, NPD 3", "NAT", model, npd),
        ]
        masks = nat if self.masks is None else self._partner("masks", self.masks, nat, NAT)
        for iterations in (4, 10):
            name, label = f"mask_predict{iterations}", f"NAT, mask-predict {iterations}"
            if masks is not nat:
                label += f" ({masks.config['name']})"
            try:
                decoding = masks.with_decoding(_mask_predict(iterations)).decoding
            except UserError as error:
                if self.masks is not None:
                    raise UserError(
                        f"estimator.masks must be a run trained with masks; got {self.masks}: {error}"
                    ) from None
                reason = "the run was not trained with masks; estimator.masks=RUN names one that was (cmlm)"
                rows.append(Row(name, label, "NAT", reason=reason))
            else:
                systems.append(maker.ours(name, label, "NAT", masks.model, decoding))
        return systems, rows

    def _rows(
        self, systems: list[System], timings: dict[int, dict[str, Timing]], bleu: dict[str, float]
    ) -> list[Row]:
        return [
            Row(
                system.name,
                system.label,
                system.family,
                timings[1][system.name].latency_ms(),
                {size: timings[size][system.name].rate() for size in sorted(timings)},
                ratio(timings[1][AT_BEAM], timings[1][system.name]),
                bleu.get(system.name),
            )
            for system in systems
        ]

    def _report(
        self,
        run: Finished,
        at: Trained,
        rows: list[Row],
        single: dict[str, Timing],
        sentences: int,
        parameters: dict[str, int],
    ) -> Report:
        is_cpu_beside_gpu = run.device.type == "cpu" and torch.cuda.is_available()
        conditions = {
            "device": run.device.type,
            "machine": "CPU" if is_cpu_beside_gpu else machine().replace(",", ";"),
            "dtype": str(PRECISIONS[self.precision]).removeprefix("torch."),
            "threads": str(torch.get_num_threads()),
            "torch": torch.__version__,
            "ctranslate2": _version(),
            "commit": commit(),
        }
        floor = ratio(single[ARGMAX], single[FLOOR])
        notes = [
            f"{sentences:,} sentences, {self.repeats} passes. Time from source ids to target ids, "
            "without segmentation. Medians with quartiles: of ms over sentences, of sentences/s over passes, "
            f"of the speed-up (seconds of AT with beam 5 / seconds, batch 1) over turns of {TURN} sentences.",
            f"Argmax takes {floor.said('.2f')} times its floor.",
        ]
        said = ", ".join(f"{name} {count:,}" for name, count in parameters.items())
        notes.append(f"Parameters: {said}.")
        if CT2_GREEDY in single:
            than = ratio(single[CT2_GREEDY], single[ARGMAX]).said(".2f")
            notes.append(f"CTranslate2's greedy float32 takes {than} times as long as argmax.")
        return Report(
            f"{run.name} against {at.name}",
            tuple(rows),
            tuple(sorted(self.batch_sizes)),
            conditions,
            tuple(notes),
        )


def metrics(
    rows: Sequence[Row], timings: dict[int, dict[str, Timing]], sentences: int, repeats: int
) -> dict[str, float]:
    """What a report of evaluate.py keeps: `speedup` is argmax', those of the others carry their names."""
    found: dict[str, float] = {}
    single = timings[1]
    found |= _named("speedup", ratio(single[AT_BEAM], single[ARGMAX]))
    found |= _named("floor_ratio", ratio(single[ARGMAX], single[FLOOR]))
    if CT2_GREEDY in single:
        found |= _named("speedup_over_ct2_float32_greedy", ratio(single[CT2_GREEDY], single[ARGMAX]))
    for row in rows:
        if row.latency_ms is None or row.rate is None or row.speedup is None:
            continue
        found |= _named(f"{row.name}_latency", row.latency_ms, "_ms")
        for size, rate in row.rate.items():
            found |= _named(f"{row.name}_batch{size}", rate, "_sentences_per_second")
        found |= _named(f"{row.name}_speedup", row.speedup)
        if row.bleu is not None:
            found[f"{row.name}_tokenised_bleu"] = row.bleu
    return found | {
        "sentences": float(sentences),
        "passes": float(repeats),
        "threads": float(torch.get_num_threads()),
    }


def _named(name: str, value: Spread, unit: str = "") -> dict[str, float]:
    return {
        f"{name}{unit}": value.median,
        f"{name}_low{unit}": value.low,
        f"{name}_high{unit}": value.high,
    }


def _parameters(trained: Trained) -> int:
    return sum(weight.numel() for weight in trained.model.parameters())


def shallow_command(at: Trained) -> str:
    """Trains the model with one decoder layer that has as many parameters as `at`."""
    path = at.folder / "run.json"
    command = "python train.py +experiment=at"
    if path.exists():
        command = read_json(path, "command")["command"]
    size = f"sizes.{at.config['size']}"
    return (
        f"{command} name=at_shallow {size}.encoder_layers={shallow_layers(at.size)} {size}.decoder_layers=1"
    )


def _mask_predict(iterations: int) -> dict[str, Any]:
    return {
        "_target_": "mple.decoding.decode.Decode",
        "lengths": {"_target_": "mple.decoding.lengths.TopLengths", "beam": 1},
        "fill": {"_target_": "mple.decoding.mask_predict.MaskPredict", "iterations": iterations},
    }


def _version() -> str:
    if not ctranslate2_export.is_installed():
        return "none"
    import ctranslate2

    return str(ctranslate2.__version__)
