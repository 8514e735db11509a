"""Measure a finished run.

    python evaluate.py run=outputs/glat_dynkd/multi30k_de-en                        # as it was tested
    python evaluate.py run=RUN decoding=length_parallel decoding.deduplicate=token  # with another decoding
    python evaluate.py run=RUN estimator=length_factor decoding=length_parallel     # tune λ on validation
    python evaluate.py run=NAT estimator=total_correlation estimator.at=AT          # C in bits

Results are printed and written to RUN/evaluations/, with the command that made them.
"""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import mple.resolvers  # noqa: F401  (conf/ uses them)
from mple.command import begin, guarded
from mple.settings import check_command


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
@guarded
def main(cfg: DictConfig) -> None:
    check_command(cfg, also=("decoding",))
    # PyTorch and Lightning take seconds to import: a mistaken word and --help are answered before.
    from mple.backend.cpu.memory import keep_memory
    from mple.evaluate import evaluate
    from mple.launch import quiet

    quiet()
    keep_memory()
    evaluate(cfg, list(HydraConfig.get().overrides.task))


if __name__ == "__main__":
    begin(main, of_the_run=("decoding",))
