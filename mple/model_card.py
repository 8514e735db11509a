"""The card of an exported model: what it is, how it was made, how good it is, how to use it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mple.files import read_json
from mple.plain import code, markdown, one_line, pipes
from mple.trained import Trained

_PLACES = re.compile(r"(?<=\s)(\S*(?:root|paths?|outputs|start|run)=)(\"[^\"]*\"|'[^']*'|\S+)")


def without_places(command: str) -> str:
    """A command without the folders of the machine that it ran on: `data.root=FOLDER`."""
    return _PLACES.sub(r"\1FOLDER", command)


def model_card(trained: Trained, metrics: Mapping[str, Any], graphs: bool) -> str:
    """Markdown. `metrics` is the run's metrics.json; every number of the card is from there, and L_MPLE from
    the run's last `estimator=mple`."""
    src, tgt = trained.languages
    config = trained.config
    codes = [one_line(src), one_line(tgt)]
    languages = yaml.safe_dump(codes, default_flow_style=True).strip()  # `no` needs quotes
    joint = " (one joint vocabulary)" if trained.src_vocabulary is trained.tgt_vocabulary else ""
    parts = [
        f"---\nlanguage: {languages}\nlibrary_name: mple\npipeline_tag: translation\n---",
        markdown(f"# {metrics['experiment']}: {src} to {tgt} ({metrics['data']})"),
        _what(trained, metrics),
        _use(trained),
        "## Method\n\n" + _table(("part", "choice"), _method(config)),
        f"## Data\n\n{code('data=' + str(metrics['data']))}; source vocabulary "
        f"{len(trained.src_vocabulary):,} entries, target {len(trained.tgt_vocabulary):,}{joint}; training "
        f"pairs of at most {config['data']['max_length']} tokens a side.",
        "## Results\n\n" + _results(metrics),
        *([_objective(trained.folder)] if "proxy" in _names(config) else []),
        "## Origin\n\n" + _table(("", ""), _origin(metrics)),
    ]
    if graphs:
        parts.append(_graphs(trained))
    return "\n\n".join(parts) + "\n"


def _use(trained: Trained) -> str:
    asked = trained.decoding.teacher
    teacher, opened, said = "", 'trained = load("path/to/this/folder")\n', ""
    if asked is not None:
        teacher = " teacher=path/to/teacher"
        opened += 'trained = trained.with_decoding(trained.config["decoding"], load("path/to/teacher"))\n'
        said = (
            f"\n\nIts decoding asks a teacher, {code(asked)}, which is no part of this folder: an "
            "autoregressive run with the same vocabularies, or an export of one. Without it another decoding "
            "serves, such as `decoding=length_parallel`."
        )
    return (
        "## Use\n\nIn a checkout of mple:\n\n```sh\n"
        f"python translate.py run=path/to/this/folder{teacher} < in.txt > out.txt\n```\n\n"
        f"```python\nfrom mple.trained import load\n\n{opened}"
        'trained.translate(["..."])\n```\n\n'
        f"Input is raw text, one sentence a line; lines of more than {trained.max_length} tokens are "
        f"split.{said}"
    )


def _what(trained: Trained, metrics: Mapping[str, Any]) -> str:
    size = trained.size
    kind = "An autoregressive" if "proxy" not in _names(trained.config) else "A non-autoregressive"
    return (
        f"{kind} Transformer with {metrics['parameters']:,} parameters ({size.encoder_layers} and "
        f"{size.decoder_layers} layers, width {size.d_model}), trained for {metrics['updates']:,} updates; "
        "its weights are the mean of the best checkpoints."
    )


def _names(config: Mapping[str, Any]) -> set[str]:
    """The strategies that the training used: an autoregressive model has no proxy."""
    is_nat = str(config["module"]["model"]["_target_"]).endswith(".NAT")
    nat = {"proxy", "proxy_target", "proxy_input", "vanilla_input"} if is_nat else set()
    return nat | {"objective", "decoding"}


def _method(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name in ("proxy", "proxy_target", "proxy_input", "vanilla_input", "objective", "decoding"):
        if name in _names(config) and isinstance(config.get(name), Mapping):
            rows.append((name, code(_short(config[name]))))
    return rows


def _short(node: Any) -> str:
    """`GlancingInput(start=0.5, ...)` of a node of the configuration."""
    if isinstance(node, Mapping) and "_target_" in node:
        settings = ", ".join(f"{k}={_short(v)}" for k, v in node.items() if not str(k).startswith("_"))
        return f"{str(node['_target_']).rpartition('.')[2]}({settings})"
    return str(node)


def _results(metrics: Mapping[str, Any]) -> str:
    splits = ("test", "valid")
    found = [metrics.get(split, {}) for split in splits]
    keys = dict.fromkeys(key for values in found for key in values)
    rows = [
        (markdown(key), *(f"{values[key]:.4g}" if key in values else "–" for values in found)) for key in keys
    ]
    signatures = [
        (code(name), code(str(signature))) for name, signature in metrics.get("signatures", {}).items()
    ]
    said = (
        "`nat_loss_*` is L_NAT in bits per token: of the raw references, of the teachers' targets, and "
        "under the proxy itself.\n\n"
    )
    return said + _table(("metric", *splits), rows) + "\n\n" + _table(("metric", "signature"), signatures)


def _objective(folder: Path) -> str:
    """L̂_MPLE and its parts, as measured last."""
    reports = sorted((folder / "evaluations").glob("mple-*.json"), key=lambda path: path.stat().st_mtime)
    title = "### L_MPLE\n\n"
    if not reports:
        return title + "Not measured; `python evaluate.py run=RUN estimator=mple` does."
    found = read_json(reports[-1], "metrics")
    rows = [
        (
            f"`{name}`",
            *(f"{found['metrics'][f'{name}{end}_bits_per_token']:.3f}" for end in ("", "_low", "_high")),
        )
        for name in ("nat_loss", "target_loss", "input_loss", "mple_loss")
    ]
    said = f"Bits per token with 95 % intervals, β = {found['metrics']['beta']:g}: "
    command = f"{code(without_places(found['command']))}\n\n"
    return title + said + command + _table(("part", "value", "from", "to"), rows)


def _origin(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("command", code(without_places(metrics["command"])))]
    rows += [
        (key, markdown(str(metrics[key])))
        for key in ("commit", "date", "machine", "python", "torch", "seed", "key")
    ]
    return rows


def _graphs(trained: Trained) -> str:
    first = getattr(trained.model, "first_sayable", 0)
    return f"""## ONNX

`encoder.onnx` and `decoder.onnx` are the model in float32; batches, sources and canvases may have any size.
Ids: 0 `<pad>`, 2 `<eos>`, 4 `<mask>`. One pass, as in `decoding=argmax`:

```python
import numpy as np
import onnxruntime

encoder, decoder = (onnxruntime.InferenceSession(f"{{name}}.onnx") for name in ("encoder", "decoder"))
states, lengths, _ = encoder.run(None, {{"src_tokens": src_tokens}})  # int64 (B, S): ids, 2, then 0s
tokens = np.where(np.arange(lengths.max()) < lengths[:, None], 4, 0)
(logits,) = decoder.run(None, {{"tokens": tokens, "src_tokens": src_tokens, "states": states}})
said = np.where(tokens == 0, 0, logits[:, :, {first}:].argmax(-1) + {first})
```"""


def _table(heading: tuple[str, ...], rows: list[Any]) -> str:
    lines = [heading, tuple("---" for _ in heading), *rows]
    return "\n".join("| " + " | ".join(pipes(str(cell)) for cell in line) + " |" for line in lines)
