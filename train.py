"""Train one model, with everything it needs, and test it.

    python train.py +experiment=glat_dynkd                                    # embedded grammar data
    python train.py +experiment=glat_dynkd data=multi30k data.root=FOLDER     # real data
    python train.py -m +experiment=vanilla_kd,glat_kd seed=1,2,3              # a multirun

The same command again resumes an interrupted run and skips a finished one.
"""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mple.launch import Job, guarded, keep_memory, quiet


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@guarded
def main(cfg: DictConfig) -> float:
    """Returns validation BLEU, which is what an optimising sweep looks at."""
    quiet()
    keep_memory()
    metrics = Job(cfg, list(HydraConfig.get().overrides.task)).execute()
    return metrics["valid"]["tokenised_bleu"]


if __name__ == "__main__":
    main()
