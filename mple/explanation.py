"""Why a model said what it said, for one sentence: the numbers of the page that `mple.explain` draws.

explanation = explain(load("outputs/glat_dynkd"), "ein Hund läuft", reference="a dog runs", top=5)
explanation.positions[0].top          # ((piece, probability), …): two modes show as two likely tokens
explanation.lengths                   # P(L | X) around the most probable length
explanation.glance, explanation.alignment    # what the proxy would make of the reference
explanation.steps                     # of mask-predict
explanation.hypotheses                # of an autoregressive model: its n-best list
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mple import checks
from mple.checks import UserError
from mple.decoding.beam import Beam
from mple.decoding.mask_predict import MaskPredict
from mple.estimator.input_loss import LAWS
from mple.model.autoregressive import Autoregressive
from mple.model.nat import NAT
from mple.proxy.target_first import TargetFirst
from mple.proxy_input import ProxyInput
from mple.proxy_input.glancing import DISTANCES, Glancing
from mple.proxy_target import AlignedTarget, ProxyTarget, laid_out
from mple.proxy_target.axe import AXE
from mple.proxy_target.raw import Raw
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.trained import Trained, made
from mple.types import BLANK, PAD, Batch, DecoderInput, EncoderOutput, Target

LENGTHS_SHOWN = 9


@dataclass(frozen=True)
class Position:
    """One place of the canvas. piece, probability: what is said there. top: the most probable pieces.
    entropy: of the whole distribution, in bits. repeats: it says what the place before says."""

    piece: str
    probability: float
    top: tuple[tuple[str, float], ...]
    entropy: float
    repeats: bool


@dataclass(frozen=True)
class Glance:
    """What the run's proxy input would show of the reference.

    method: its name. ratio, distance, distance_name: of glancing, else None. revealed: which of `pieces` are
    shown; they are drawn with `seed`.
    """

    method: str
    pieces: tuple[str, ...]
    revealed: tuple[bool, ...]
    seed: int
    ratio: float | None = None
    distance: int | None = None
    distance_name: str | None = None


@dataclass(frozen=True)
class Alignment:
    """The reference laid on the canvas (Fig. 9), given Z where the proxy draws that first: token i stands at
    `positions[i]`, from 0, or was skipped there. said: T, position by position."""

    method: str
    reference: tuple[str, ...]
    positions: tuple[int, ...]
    skipped: tuple[bool, ...]
    said: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """The canvas after one pass of mask-predict; `is_new` are the places that it said."""

    pieces: tuple[str, ...]
    probabilities: tuple[float, ...]
    is_new: tuple[bool, ...]


@dataclass(frozen=True)
class Hypothesis:
    """One of an AT's n best, with P(y_i | y_<i, X) of each piece and of eos at the end; score is
    log P(Y, eos | X) in nats."""

    text: str
    score: float
    pieces: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Explanation:
    """All about one sentence. `unknown`: what of it the vocabulary lacks."""

    name: str
    languages: tuple[str, str]
    source: str
    src_pieces: tuple[str, ...]
    unknown: tuple[str, ...]
    output: str
    reference: str | None = None
    positions: tuple[Position, ...] = ()
    lengths: tuple[tuple[int, float], ...] = ()
    glance: Glance | None = None
    alignment: Alignment | None = None
    steps: tuple[Step, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()
    notes: tuple[str, ...] = ()


@torch.no_grad()
def explain(
    trained: Trained,
    source: str,
    reference: str | None = None,
    top: int = 5,
    iterations: int = 0,
    seed: int = 0,
) -> Explanation:
    """
    Args:
        trained: with the teacher that its decoding asks (npd), if any: `with_decoding`.
        reference: a target, for what the proxy makes of it; a NAT's only.
        top: pieces shown at each position, and hypotheses of an AT.
        iterations: passes of mask-predict to show; 0 shows none.
        seed: of what is glanced.

    Raises:
        UserError: an empty sentence or one that is too long, a setting out of range, mask-predict of a model
            that was not trained with masks, a reference of an AT, or a decoding that lacks its teacher.
    """
    checks.whole("top", top, 1, "pieces", high=100)
    checks.whole("iterations", iterations, 0, "passes", high=100)
    checks.seed("seed", seed)
    source = source.strip()
    (ids,) = trained.encode([source])
    if not 0 < len(ids) <= trained.max_length:
        raise UserError(
            f"the sentence must have 1 to {trained.max_length} tokens, the most that the model has learned "
            f"to read; got {len(ids)}"
        )
    src_tokens = trained.src_tokens([ids])
    about: dict[str, Any] = {
        "name": trained.name,
        "languages": trained.languages,
        "source": source,
        "src_pieces": tuple(trained.src_vocabulary.pieces(ids)),
        "unknown": tuple(dict.fromkeys(trained.src_vocabulary.unknown(source))),
        "output": trained.translate([source])[0],
        "reference": reference,
    }
    if isinstance(trained.model, Autoregressive):
        if reference is not None or iterations:
            key = "reference" if reference is not None else "iterations"
            raise UserError(f"{key} is for a NAT; {trained.name} is autoregressive")
        return Explanation(**about, hypotheses=_hypotheses(trained, trained.model, src_tokens, top))
    model = trained.model
    encoder_out = model.encode(src_tokens)
    lengths, length = _lengths(model, encoder_out)
    positions = _positions(trained, model, encoder_out, length, top)
    steps = _steps(trained, model, encoder_out, length, iterations) if iterations else ()
    drawn = {} if reference is None else _proxy(trained, model, encoder_out, src_tokens, reference, seed)
    return Explanation(**about, positions=positions, lengths=lengths, steps=steps, **drawn)


def _lengths(model: NAT, encoder_out: EncoderOutput) -> tuple[tuple[tuple[int, float], ...], int]:
    """P(L | X) near the most probable length, by length; and that length."""
    classes = 2 * model.length.max_offset + 1
    found, log_probs = model.length.predict(encoder_out, min(classes, 4 * LENGTHS_SHOWN))
    best = int(found[0, 0])
    pairs = zip(found[0].tolist(), log_probs[0].exp().tolist(), strict=True)
    near = [(length, p) for length, p in pairs if abs(length - best) <= LENGTHS_SHOWN // 2 and p > 0]
    return tuple(sorted(near)), best


def _positions(
    trained: Trained, model: NAT, encoder_out: EncoderOutput, length: int, top: int
) -> tuple[Position, ...]:
    blank = model.blank(torch.tensor([length], device=encoder_out.states.device))
    log_probs = model.decode(blank, encoder_out).logits[0].float().log_softmax(-1)  # (L, V)
    sayable = log_probs[:, model.first_sayable :]
    best, ids = sayable.topk(min(top, sayable.shape[1]), 1)
    entropy = -(log_probs.exp() * log_probs.clamp(min=-1e9)).sum(1) / torch.log(torch.tensor(2.0))
    found: list[Position] = []
    previous = -1
    for row in range(length):
        here = (ids[row] + model.first_sayable).tolist()
        pieces = trained.tgt_vocabulary.pieces(here)
        pairs = tuple(zip(pieces, best[row].exp().tolist(), strict=True))
        repeats = here[0] == previous and here[0] != BLANK
        found.append(Position(*pairs[0], pairs, float(entropy[row]), repeats))
        previous = here[0]
    return tuple(found)


def _steps(
    trained: Trained, model: NAT, encoder_out: EncoderOutput, length: int, iterations: int
) -> tuple[Step, ...]:
    node = trained.config.get("proxy_input") or {}
    if made(node, "proxy_input").law == "none":
        raise UserError(
            "iterations shows mask-predict, which needs a model that was trained with a partly revealed Z "
            f"(CMLM, GLAT); {trained.name} was not"
        )
    blank = model.blank(torch.tensor([length], device=encoder_out.states.device))
    found = []
    for filled, is_new in MaskPredict(iterations).passes(model, blank, encoder_out):
        pieces = trained.tgt_vocabulary.pieces(filled.tokens[0].tolist())
        chances = filled.log_probs[0].exp().tolist()
        found.append(Step(tuple(pieces), tuple(chances), tuple(is_new[0].tolist())))
    return tuple(found)


def _proxy(
    trained: Trained,
    model: NAT,
    encoder_out: EncoderOutput,
    src_tokens: Int[Tensor, "1 S"],
    reference: str,
    seed: int,
) -> Mapping[str, Any]:
    """The T and Z that the run's proxy makes of a reference, at the end of training, in its own order."""
    (ids,) = trained.tgt_vocabulary.encode([reference.strip()])
    limit = model.length.max_length
    if not 0 < len(ids) <= limit:
        raise UserError(f"reference must have 1 to {limit} tokens; got {len(ids)}")
    tokens = torch.tensor([[int(i) for i in ids]], device=src_tokens.device)
    batch = Batch(torch.zeros(1, dtype=torch.long, device=src_tokens.device), src_tokens, tokens)
    lengths = laid_out(tokens).lengths
    snapshot = Snapshot(model, encoder_out, batch.ids, lengths, Draws(seed, -1), step=1, total=1)
    found: dict[str, Any] = {}
    proxy_target = made(trained.config["proxy_target"], "proxy_target")
    text: ProxyTarget = Raw()  # whoever chooses the text in training, here it is `reference`
    is_aligned = isinstance(proxy_target, AlignedTarget)
    if is_aligned:
        text = dataclasses.replace(proxy_target, reference=text)
    proxy_input = made(trained.config["proxy_input"], "proxy_input")
    watched = _Watched(proxy_input)
    order = trained.config.get("proxy", {"_target_": f"{TargetFirst.__module__}.TargetFirst"})
    proxy = made({**order, "_partial_": True}, "proxy")(target=text, input=watched)
    target, inputs, _ = proxy(batch, snapshot)
    if is_aligned:
        found["alignment"] = _alignment(trained, proxy_target, tokens, target)
    if proxy_input.law != "none":
        assert proxy_input.law in LAWS
        ((seen, before),) = watched.seen
        pieces = trained.tgt_vocabulary.pieces(seen.tokens[0].tolist())
        glance: dict[str, Any] = {}
        if isinstance(proxy_input, Glancing):
            said = before.predictions.masked_fill(~seen.counts, PAD)
            distance = DISTANCES[proxy_input.distance](said, seen.tokens.masked_fill(~seen.counts, PAD))
            glance = {"distance": int(distance), "distance_name": proxy_input.distance}
            glance["ratio"] = proxy_input.ratio(1, 1)
        name = type(proxy_input).__name__
        found["glance"] = Glance(name, tuple(pieces), tuple(inputs.revealed[0].tolist()), seed, **glance)
    if not found:
        found["notes"] = ("This run's proxy takes the reference as it is and shows the decoder none of it.",)
    return found


@dataclass(frozen=True)
class _Watched:
    """A proxy input that keeps what it was shown: the text and the look-ahead that Z was made of."""

    input: ProxyInput
    seen: list[tuple[Target, Snapshot]] = field(default_factory=list)

    @property
    def law(self) -> str:
        return self.input.law

    def __call__(self, batch: Batch, target: Target, snapshot: Snapshot) -> DecoderInput:
        self.seen.append((target, snapshot))
        return self.input(batch, target, snapshot)


def _alignment(
    trained: Trained, proxy_target: AlignedTarget, tokens: Int[Tensor, "1 T"], target: Target
) -> Alignment:
    pieces = trained.tgt_vocabulary.pieces
    reference, said = tokens[0].tolist(), target.tokens[0].tolist()
    if isinstance(proxy_target, AXE):
        assert target.penalty is not None
        places = target.penalty.positions[0].tolist()
        skipped = [_is_skipped(i, reference, places, said) for i in range(len(reference))]
    else:
        places, skipped = _places(reference, said), [False] * len(reference)
    name = type(proxy_target).__name__
    return Alignment(name, tuple(pieces(reference)), tuple(places), tuple(skipped), tuple(pieces(said)))


def _is_skipped(token: int, reference: list[int], places: list[int], said: list[int]) -> bool:
    """Of the tokens at one position, one at most is said: the first of those that are its token."""
    place = places[token]
    here = [i for i, other in enumerate(places) if other == place]
    spoken = next((i for i in here if reference[i] == said[place]), None)
    return token != spoken


def _places(reference: list[int], said: list[int]) -> list[int]:
    """Where a permutation puts each token; equal tokens stay in order."""
    free: dict[int, list[int]] = {}
    for place, token in enumerate(said):
        free.setdefault(token, []).append(place)
    return [free[token].pop(0) for token in reference]


def _hypotheses(
    trained: Trained, model: Autoregressive, src_tokens: Int[Tensor, "1 S"], top: int
) -> tuple[Hypothesis, ...]:
    decoding = trained.decoding
    assert isinstance(decoding, Beam)
    best = decoding.search(model, src_tokens, n_best=min(top, decoding.beam))
    found = []
    for tokens, score in zip(best.tokens[0], best.scores[0].tolist(), strict=True):
        if score == -float("inf"):
            continue
        text = tokens[tokens != PAD].unsqueeze(0)
        output = model.decode(model.prefixes(text), model.encode(src_tokens))
        log_probs = output.logits[0].float().log_softmax(-1)
        labels = model.labels(text)[0]
        chances = log_probs.gather(1, labels.unsqueeze(1)).squeeze(1).exp().tolist()
        pieces = trained.tgt_vocabulary.pieces(labels.tolist())
        found.append(Hypothesis(trained.texts(text)[0], score, tuple(pieces), tuple(chances)))
    return tuple(found)
