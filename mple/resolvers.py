"""What the files below `conf/` compute: `${divide:a,b}`, `${as_far_as:...}` and so on."""

from collections.abc import Mapping

from omegaconf import DictConfig, OmegaConf

from mple.language import language, one_script, segmenters

OmegaConf.register_new_resolver("divide", lambda a, b: max(1, round(a / b)), replace=True)
OmegaConf.register_new_resolver("one_script", one_script, replace=True)
OmegaConf.register_new_resolver(
    "sentence_tokenizer", lambda code: language(code).sentence_tokenizer, replace=True
)


def segmenters_or(
    src_lang: str | None, tgt_lang: str | None, otherwise: Mapping[str, str] | None = None
) -> DictConfig | None:
    """`segmenters` of the pair, or `otherwise` where neither language needs one: null, which is in no key."""
    needed = segmenters(src_lang, tgt_lang) or otherwise
    return None if needed is None else OmegaConf.create(dict(needed))


OmegaConf.register_new_resolver("segmenters", segmenters_or, replace=True)


def as_far_as(update: int, updates: int, warmup_steps: int) -> int:
    """The update of a run that is as far as `update` of the paper's 300,000 (App. G). Its warm-up of 10,000
    and what follows are scaled each by itself: a short run warms up for a larger share of its updates, and
    in a warm-up little is learned.
    """
    warmup_steps = min(warmup_steps, updates)
    if update <= 10_000:
        return max(1, round(warmup_steps * update / 10_000))
    return max(1, round(warmup_steps + (updates - warmup_steps) * (update - 10_000) / 290_000))


OmegaConf.register_new_resolver("as_far_as", as_far_as, replace=True)
