"""A finished run in use: its model with the final weights, its vocabularies, its decoding.

    trained = load("outputs/glat_dynkd/multi30k_de-en")    # a run, an export, or a folder with one run in it
    trained.translate(["Ein Mann schläft."])               # ["A man is sleeping."]

A folder is enough: neither the corpus nor the data that were prepared of it are needed. What lies in a folder
may come from anybody, so nothing in it is executed: weights are tensors and nothing else, and a configuration
is looked at before anything is made of it (`mple.foreign`).
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra.errors
import numpy as np
import safetensors
import safetensors.torch
import torch
from hydra.utils import instantiate
from jaxtyping import Int
from torch import Tensor, nn

from mple import checks
from mple.checks import UserError
from mple.data.text import file_sha256
from mple.data.vocabulary import Vocabulary, load_vocabularies
from mple.decoding import Decoding
from mple.decoding.beam import Beam
from mple.decoding.input_sampling import InputSampling
from mple.files import EXPORT_MARK, read_json, read_tensors, verify
from mple.foreign import check_targets, read_config
from mple.model.autoregressive import Autoregressive
from mple.model.input_predictor import InputDistribution, MaskPredictor
from mple.model.nat import NAT
from mple.model.transformer import Size
from mple.types import EOS, PAD

CONFIG = "config.yaml"
WEIGHTS = "averaged.pt"
EXPORTED_WEIGHTS = "model.safetensors"
VOCABULARY = "vocabulary"
METRICS = "metrics.json"
INPUT_PREDICTOR = "input_predictor"
INPUT_PREDICTOR_RESULTS = "input_predictor.json"
MASK_PREDICTOR_WEIGHTS = "mask_predictor.pt"
OF_WEIGHTS = "of_weights_sha256"
VANILLA_CONFIG, VANILLA_WEIGHTS = "vanilla.yaml", "vanilla.pt"


@dataclass(frozen=True)
class Trained:
    """A model in eval mode and what it takes to translate text with it.

    config: the run's configuration, resolved. languages: codes of source and target. teacher: the
    autoregressive run that the decoding asks (NPD), if it was handed over.
    """

    folder: Path
    config: Mapping[str, Any]
    model: NAT | Autoregressive
    src_vocabulary: Vocabulary
    tgt_vocabulary: Vocabulary
    languages: tuple[str, str]
    decoding: Decoding | Beam
    teacher: "Trained | None" = None

    @property
    def name(self) -> str:
        return f"{self.config['name']} seed {self.config['seed']}"

    @property
    def max_length(self) -> int:
        """Content tokens of the longest source that the model has learned to read."""
        return min(self.config["data"]["max_length"], self.size.max_positions - 1)

    @property
    def size(self) -> Size:
        return Size.named(self.config["sizes"], self.config["size"])

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def metrics(self) -> dict[str, Any] | None:
        """The results of the run; None where it was not tested."""
        path = self.folder / METRICS
        return read_json(path) if path.exists() else None

    def to(self, device: torch.device | str) -> "Trained":
        """The same, its model (and its teacher's) moved to `device`."""
        self.model.to(device)
        if self.teacher is not None:
            self.teacher.to(device)
        return self

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Content ids of raw sentences, as the corpus was encoded for training."""
        return self.src_vocabulary.encode([text.strip() for text in texts])

    def src_tokens(self, sentences: Sequence[np.ndarray]) -> Int[Tensor, "B S"]:
        """Content ids as the model reads them: eos after each, `pad` at the right, on the model's device."""
        width = max(map(len, sentences)) + 1
        tokens = np.full((len(sentences), width), PAD, np.int64)
        for row, ids in zip(tokens, sentences, strict=True):
            row[: len(ids)], row[len(ids)] = ids, EOS
        return torch.from_numpy(tokens).to(self.device)

    def texts(self, tokens: Int[Tensor, "B L"]) -> list[str]:
        """Target ids to detokenised text."""
        return self.tgt_vocabulary.decode_all(list(tokens.cpu().numpy()))

    @torch.inference_mode()
    def translate(self, texts: Sequence[str]) -> list[str]:
        """Translations of a few sentences, as one batch; "" of an empty one. For files there is
        `mple.translate`.

        Raises:
            UserError: the decoding lacks its teacher.
        """
        self.check_teacher()
        sentences = self.encode(texts)
        filled = [ids for ids in sentences if len(ids)]
        if not filled:
            return [""] * len(sentences)
        found = self.decoding(self.model, self.src_tokens(filled))  # type: ignore[arg-type]
        translations = iter(self.texts(found.tokens))
        return [next(translations) if len(ids) else "" for ids in sentences]

    def check_teacher(self) -> None:
        """
        Raises:
            UserError: the decoding asks a teacher that was not handed over.
        """
        if self.decoding.teacher is not None and self.teacher is None:
            raise UserError(
                f"the decoding asks the teacher {self.decoding.teacher!r}: name the folder of its run with "
                "teacher=FOLDER, or choose another decoding"
            )

    def with_decoding(self, node: Mapping[str, Any], teacher: "Trained | None" = None) -> "Trained":
        """The same model with another decoding, `node` being its configuration.

        Raises:
            UserError: a wrong setting, a decoding that this model cannot serve, a teacher that is no
                autoregressive run with the same vocabularies, or one that the decoding does not ask.
        """
        decoding = made(node, "decoding")
        is_nat = isinstance(self.model, NAT)
        if is_nat == isinstance(decoding, Beam):
            kind, needed = ("a NAT", "any but beam") if is_nat else ("an autoregressive model", "beam")
            raise UserError(f"decoding must be {needed} for {kind}; got {type(decoding).__name__}")
        if teacher is not None and decoding.teacher is None:
            raise UserError(
                "teacher must be given only with a decoding that asks one (decoding=npd): it has no effect "
                f"on any other; got {teacher.folder} with {type(decoding).__name__}"
            )
        if isinstance(decoding, Beam):
            return dataclasses.replace(self, decoding=decoding, teacher=None)
        if decoding.needs_masks and made(self.config["proxy_input"], "proxy_input").law == "none":
            raise UserError(
                f"decoding={type(decoding).__name__} shows the decoder some of its own tokens, so it needs a "
                f"model that was trained with a partly revealed Z (CMLM, GLAT); {self.name} was not"
            )
        model = None
        if teacher is not None:
            model = teacher.model
            ours, theirs = (
                (t.src_vocabulary.fingerprint, t.tgt_vocabulary.fingerprint) for t in (self, teacher)
            )
            if not isinstance(model, Autoregressive) or ours != theirs:
                raise UserError(
                    "teacher must be an autoregressive run with the vocabularies of the run that it helps; "
                    f"got {teacher.name} in {teacher.folder}"
                )
        starts_word = torch.from_numpy(self.tgt_vocabulary.starts_word())
        if isinstance(decoding, InputSampling):
            decoding = decoding.prepared(distribution=self._input_distribution(decoding.input_predictor))
        prepared = decoding.prepared(teacher=model, starts_word=starts_word)
        return dataclasses.replace(self, decoding=prepared, teacher=teacher)

    def _input_distribution(self, name: str | None) -> InputDistribution:
        assert isinstance(self.model, NAT)
        src, tgt = self.src_vocabulary, self.tgt_vocabulary
        folder = find_input_predictor(self.folder, name)
        return load_input_distribution(folder, self.model, len(src), len(tgt), src is tgt).to(self.device)


def device_of(name: object = None) -> torch.device:
    """The device of this name; of none the GPU where there is one.

    Raises:
        UserError: it is neither cpu nor cuda, or there is no GPU of that number here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    known += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    checks.one_of("device", name, known)
    return torch.device(str(name))


def load(folder: str | Path) -> Trained:
    """The run or export in `folder`, or the only one below it; on the CPU.

    Raises:
        UserError: there is no such folder, it lacks a file (which one is said), it holds several runs, its
            parts do not fit each other, or one of them is no mere data.
    """
    found = _only_run(Path(folder))
    _verify_export(found)
    config = _config(found / CONFIG)
    src, tgt, languages = vocabularies(found)
    path, weights = _weights(found)
    for side, vocabulary in (("encoder", src), ("decoder", tgt)):
        table = weights.get(f"{side}.embedding.tokens.weight")
        if table is not None and len(table) != len(vocabulary):
            raise UserError(
                f"{found / VOCABULARY} must be the vocabulary of the weights; {path} has {len(table)} "
                f"entries in its {side}, the vocabulary {len(vocabulary)}"
            )
    try:
        model = _model(config, len(src), len(tgt), src is tgt, weights, path)
        decoding = config["decoding"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{found / CONFIG} must be the configuration of a run; got none: {error}") from error
    bare = Trained(found, config, model, src, tgt, languages, Beam())
    return bare.with_decoding(decoding)


def _verify_export(folder: Path) -> None:
    """Compare the files of an export with the checksums in its `export.json`; a run has none.

    Raises:
        UserError: one of them is damaged.
    """
    if (folder / EXPORT_MARK).exists():
        remedy = "copy the export again, or export the run again"
        mark = read_json(folder / EXPORT_MARK, remedy=remedy)
        sums = mark.get("files")
        if sums is None and "weights_sha256" in mark:  # of an older version
            size = (folder / EXPORTED_WEIGHTS).stat().st_size
            sums = {EXPORTED_WEIGHTS: {"bytes": size, "sha256": mark["weights_sha256"]}}
        verify(folder, sums or {}, remedy, may_lack=True)


def find_input_predictor(run: Path, name: str | None = None) -> Path:
    """The folder of a run's input predictor; `name` is needed where there are several.

    Raises:
        UserError: there is none, none of that name, or several and no name; or it was trained for other
            weights than the run has now.
    """
    marks = sorted((run / INPUT_PREDICTOR).glob(f"*/{INPUT_PREDICTOR_RESULTS}"))
    found = {mark.parent.name: mark.parent for mark in marks}
    if not found:
        raise UserError(
            f"{run} must have a trained input predictor; it has none: "
            f"python train.py +experiment=input_predictor of={run} vanilla=NATRUN trains it"
        )
    if name is None and len(found) == 1:
        name = next(iter(found))
    if name is None or name not in found:
        raise UserError(
            f"input_predictor must be one of those of {run}: {', '.join(found)}; got {name or 'none'}"
        )
    made_for = read_json(found[name] / INPUT_PREDICTOR_RESULTS).get(OF_WEIGHTS)
    if made_for is not None and made_for != file_sha256(run / WEIGHTS):
        raise UserError(
            f"{found[name]} was trained for other weights than {run / WEIGHTS} holds now: move it away and "
            "train it again"
        )
    return found[name]


def load_input_distribution(
    folder: Path, nat: NAT, src_size: int, tgt_size: int, is_joint: bool
) -> InputDistribution:
    """P(Z | X) of an input predictor's folder; `nat` is the run's, and the sizes are its vocabularies'."""
    masks = MaskPredictor(nat)
    path = folder / MASK_PREDICTOR_WEIGHTS
    masks.load_state_dict(_fitting(masks, _tensors(path), path))
    config, path = _config(folder / VANILLA_CONFIG), folder / VANILLA_WEIGHTS
    vanilla = _model(config, src_size, tgt_size, is_joint, _tensors(path), path)
    assert isinstance(vanilla, NAT)
    return InputDistribution(masks, vanilla)


def _only_run(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(
            f"run must be the folder of a finished run or of an export; there is no folder {folder}"
        )
    if not (folder / CONFIG).exists():
        names = (WEIGHTS, EXPORTED_WEIGHTS)
        inside = sorted({path.parent for name in names for path in folder.rglob(name)})
        if len(inside) != 1:
            shown = ": " + ", ".join(map(str, inside[:5])) if inside else f", not even a {CONFIG}"
            raise UserError(
                "run must be the folder of one finished run or of an export; "
                f"{folder} holds {len(inside)}{shown}"
            )
        folder = inside[0]
    if not (folder / EXPORTED_WEIGHTS).exists() and not (folder / WEIGHTS).exists():
        again = ""
        if (folder / "run.json").exists():
            again = (
                f": the run is not finished; to go on, {read_json(folder / 'run.json', 'command')['command']}"
            )
        raise UserError(f"run must be the folder of a finished run; {folder} lacks {WEIGHTS}{again}")
    if not (folder / CONFIG).exists():
        raise UserError(f"run must be the folder of a finished run; {folder} lacks {CONFIG}")
    if not (folder / VOCABULARY).exists():
        raise UserError(
            f"run must be the folder of a finished run; {folder} lacks {VOCABULARY} (a run of an older "
            f"version has none; copy it: cp -r outputs/data/NAME/vocabulary-KEY {folder / VOCABULARY})"
        )
    return folder


def _config(path: Path) -> dict[str, Any]:
    config = read_config(path)
    if not {"name", "seed", "data", "size", "sizes", "module"} <= set(config):
        raise UserError(f"{path} must be the configuration of a run; it is that of something else")
    check_targets(config, path)
    data = config["data"]
    longest = data.get("max_length") if isinstance(data, dict) else None
    checks.whole(f"data.max_length of {path}", longest, 1, "tokens")
    return config


def vocabularies(folder: Path) -> tuple[Vocabulary, Vocabulary, tuple[str, str]]:
    """The vocabularies that a run or an export has learned with, and the codes of its languages.

    Raises:
        UserError: they are damaged, or not there.
    """
    src, tgt = load_vocabularies(folder / VOCABULARY)
    manifest = folder / VOCABULARY / "manifest.json"
    settings = read_json(manifest, "settings")["settings"] if manifest.exists() else {}
    if not isinstance(settings, dict):
        raise UserError(f"settings of {manifest} must be those of a vocabulary; got {settings!r}")
    return src, tgt, (settings.get("src_lang", "source"), settings.get("tgt_lang", "target"))


def _weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The model's weights by their names in the model."""
    path = folder / EXPORTED_WEIGHTS
    if path.exists():
        try:
            return path, safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{path} must be a safetensors file; it cannot be read as one") from error
    return folder / WEIGHTS, _tensors(folder / WEIGHTS)


def _tensors(path: Path) -> dict[str, Tensor]:
    """The weights of a LightningModule's model, by their names in the model."""
    found: Any = read_tensors(path)
    prefix = "model."
    weights = (
        {
            k.removeprefix(prefix): v
            for k, v in found.items()
            if isinstance(v, Tensor) and k.startswith(prefix)
        }
        if isinstance(found, dict)
        else {}
    )
    if not weights:
        raise UserError(f"{path} must hold the weights of a run; it holds none")
    return weights


def _model(
    config: Mapping[str, Any],
    src_size: int,
    tgt_size: int,
    is_joint: bool,
    weights: Mapping[str, Tensor],
    path: Path,
) -> NAT | Autoregressive:
    """The network as `mple.launch.Job.module` makes it, with the `weights` of the file `path`.

    They are compared with a network that takes no memory first, for a configuration may ask for any size.
    """
    node = config["module"]["model"]
    maker = hydra.utils.get_class(node["_target_"])
    own: dict[str, Any] = {}
    if "says_blank" in inspect.signature(maker).parameters:
        own["says_blank"] = made(config["proxy_target"], "proxy_target").says_blank
    size = Size.named(config["sizes"], config["size"])

    def new() -> nn.Module:
        partial = made({**node, "_partial_": True}, "module.model")
        return partial(size=size, src_size=src_size, tgt_size=tgt_size, is_joint=is_joint, **own)

    with torch.device("meta"):
        weights = _fitting(new(), weights, path)
    with torch.random.fork_rng(devices=[]):
        model = new()
    if not isinstance(model, NAT | Autoregressive):
        raise UserError(f"run must be a model that translates; this one is a {type(model).__name__}")
    model.load_state_dict(weights)
    return model.eval()


def _fitting(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights by every name in the model; a tensor that two of its parts share may be in `weights` under
    one of its names only.

    Raises:
        UserError: they are not those of the model.
    """
    own = model.state_dict(keep_vars=True)  # the parameters themselves, which have identities
    shared = {id(own[name]): value for name, value in weights.items() if name in own}
    fitting: dict[str, Tensor] = {}
    for name, value in own.items():
        given = weights[name] if name in weights else shared.get(id(value))
        if given is None:
            raise UserError(f"{path} must hold the weights of the model in {CONFIG}; it lacks {name}")
        if given.shape != value.shape:
            expected, came = tuple(value.shape), tuple(given.shape)
            raise UserError(
                f"{path} must hold the weights of the model in {CONFIG}; "
                f"{name} is {expected} there and {came} here"
            )
        if given.untyped_storage().nbytes() < given.nbytes:  # a number repeated by strides
            raise UserError(f"{path} must hold the weights of the model in {CONFIG}; {name} is not whole")
        fitting[name] = given
    if more := [name for name in weights if name not in own]:
        raise UserError(f"{path} must hold the weights of the model in {CONFIG}; it also has {more[0]}")
    return fitting


def made(node: Mapping[str, Any], key: str) -> Any:
    """What `node` describes. `load` has looked at every class that a folder's configuration names.

    Raises:
        UserError: its settings are wrong.
    """
    try:
        return instantiate(dict(node), _convert_="all")
    except hydra.errors.InstantiationException as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{key} must fit this version of the code; {str(error).splitlines()[0]}") from error
