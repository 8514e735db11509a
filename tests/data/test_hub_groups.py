"""The data groups that come from the hub, each on a local folder in its hub layout: from files to batches."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from mple.data.datamodule import TranslationData
from tests.runs import MICRO, job, sentences

GROUPS = {"wmt14_en_de": "de-en", "wmt16_en_ro": "ro-en", "wmt17_zh_en": "zh-en", "iwslt14_de_en": "de-en"}
"""`data=` and the config of the hub's data set."""

SPLITS = {"train": 300, "validation": 10, "test": 12}
_CHINESE = ["一个人", "在街上", "走", "看", "两只狗", "小孩", "吃", "苹果"]


def hub_folder(root: Path, config: str) -> Path:
    """A README.md with `configs:` and a parquet file a split, with a column of translations."""
    languages = config.split("-")
    head = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for split, count in SPLITS.items():
        head += [f"  - split: {split}", f"    path: {config}/{split}-*"]
        sides = [sentences(count, i) for i in range(len(languages))]
        if "zh" in languages:
            words = sentences(count, 2, _CHINESE)
            sides[languages.index("zh")] = [line.replace(" ", "") + "。" for line in words]
        rows = [{"translation": dict(zip(languages, pair, strict=True))} for pair in zip(*sides, strict=True)]
        path = root / config / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    (root / "README.md").write_text("\n".join([*head, "---", ""]))
    return root


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_reads_its_hub_layout(tmp_path: Path, group: str) -> None:
    root = hub_folder(tmp_path / "hub", GROUPS[group])
    overrides = [
        f"data={group}",
        f"data.root={root}",
        f"outputs={tmp_path / 'outputs'}",
        "data.max_length=24",
    ]
    overrides.append(f"data.vocabulary.size={50 if 'zh' in GROUPS[group] else 100}")  # so few Chinese words
    made = job("+experiment=vanilla_raw", *MICRO, *overrides)
    assert made.source.name != group  # the hub's name, not ours
    data: TranslationData = made.data(0)
    data.setup()
    languages = GROUPS[group].split("-")
    assert {made.source.src_lang, made.source.tgt_lang} == set(languages)
    assert (data.src_vocabulary is data.tgt_vocabulary) == (group != "wmt17_zh_en")  # App. G: separate there
    lines, sources, references = data.text("test")
    assert len(lines) == SPLITS["test"]
    at = languages.index(made.source.src_lang)
    expected = pyarrow.parquet.read_table(root / GROUPS[group] / "test-00000-of-00001.parquet").to_pylist()
    for line, source, reference in zip(lines, sources, references, strict=True):
        pair = expected[int(line)]["translation"]
        assert source == pair[languages[at]]
        assert reference == pair[languages[1 - at]]
    batch = next(iter(data.batches("test")))
    decoded = data.decode(batch.tgt_tokens)
    assert [references[list(lines).index(i)] for i in batch.ids.tolist()] == decoded
