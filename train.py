"""Train one model, with everything it needs, and test it.

    python train.py +experiment=glat_dynkd                                    # embedded grammar data
    python train.py +experiment=glat_dynkd data=multi30k data.root=FOLDER     # real data
    python train.py -m +experiment=vanilla_kd,glat_kd seed=1,2,3              # a multirun
    python train.py +experiment=input_predictor of=RUN vanilla=NATRUN         # P(Z | X) of a finished run

The same command again resumes an interrupted run and skips a finished one. Ctrl-C, SIGTERM, SIGUSR1 and
SIGUSR2 interrupt one: the update is completed, last.ckpt written, and the exit status is 128 + the signal's
number.
"""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

import mple.resolvers  # noqa: F401  (conf/ uses them)
from mple.checks import UserError
from mple.command import INPUT_PREDICTOR_WORD, begin, guarded
from mple.settings import check_command
from mple.training import signals


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@guarded
@signals.resumable
def main(cfg: DictConfig) -> float:
    """Returns validation BLEU, which is what an optimising sweep looks at."""
    hydra_config = HydraConfig.get()
    is_predictor = hydra_config.job.config_name == "input_predictor"
    check_command(cfg, also=("optimizer",) if is_predictor else ())
    # PyTorch and Lightning take seconds to import: a mistaken word and --help are answered before.
    from mple.backend.cpu.memory import keep_memory
    from mple.input_predictor import PredictorJob
    from mple.launch import Job, quiet

    quiet()
    keep_memory()
    overrides = list(hydra_config.overrides.task)
    kind = PredictorJob if is_predictor else Job
    job = kind(cfg, overrides)
    if hydra_config.mode == RunMode.MULTIRUN and cfg.trainer.devices != 1:
        # Lightning starts the further processes of a job by the command line, which here is that of all jobs.
        own = [part for part in overrides if not part.lstrip("+").startswith("sweep=")]
        program = [sys.executable, str(Path(__file__).resolve()), f"-cn={hydra_config.job.config_name}"]
        if status := signals.run([*program, *own]):
            raise UserError(f"the job {' '.join(own)} ended with status {status}")
    metrics = job.execute()
    return metrics["valid"]["tokenised_bleu"]


if __name__ == "__main__":
    # It has none of the other experiments' settings, so it is a configuration of its own.
    sys.argv = [part.replace(INPUT_PREDICTOR_WORD, "--config-name=input_predictor") for part in sys.argv]
    begin(main)
