"""What the files below `conf/` compute: `${divide:a,b}`, `${as_far_as:...}` and so on."""

from omegaconf import OmegaConf

OmegaConf.register_new_resolver("divide", lambda a, b: max(1, round(a / b)), replace=True)
# Chinese has no spaces between its words: BPE and sentence BLEU need to be told.
OmegaConf.register_new_resolver("one_script", lambda a, b: "zh" not in (a, b), replace=True)
OmegaConf.register_new_resolver(
    "segmenters", lambda a, b: {"zh": "jieba"} if "zh" in (a, b) else {}, replace=True
)
OmegaConf.register_new_resolver(
    "sentence_tokenizer", lambda language: "zh" if language == "zh" else "13a", replace=True
)


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
