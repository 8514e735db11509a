"""Measure L_NAT of a finished NAT on the references of its test, with an interval over sentences.

    python -m experiments.paper_items.likelihood RUN

A run's own test gives the loss and not how sure it is; the claim that maximum likelihood has the better
likelihood needs both. Z is fully masked and the length is the reference's. Written to
RUN/evaluations/likelihood-0.json.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mple.checks import UserError
from mple.command import answered
from mple.estimator.statistics import Bootstrap
from mple.files import write_json
from mple.run import provenance

CONF = Path(__file__).parents[2] / "conf"


def measure(folder: Path, split: str = "test") -> dict[str, float]:
    """`nat_loss_raw_bits_per_token` with `_low_` and `_high_`.

    Raises:
        UserError: not the folder of a finished run of a NAT.
    """
    from mple.evaluation.finished import Finished
    from mple.evaluation.total_correlation import sentence_losses
    from mple.modules.non_autoregressive import NonAutoregressive
    from mple.proxy_target.raw import Raw

    run = Finished.open(folder)
    if not isinstance(run.module, NonAutoregressive):
        raise UserError(f"likelihood is of a NAT, whose length is given; {run.name} is none")
    losses = sentence_losses(run, split, Raw())
    return Bootstrap().bits_per_token(losses.nats, losses.tokens).metrics("nat_loss_raw", "bits_per_token")


@answered
def main(arguments: Sequence[str] | None = None) -> int:
    import hydra

    parser = argparse.ArgumentParser(
        prog="python -m experiments.paper_items.likelihood", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    folder = parser.parse_args(arguments).run
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        found = measure(folder)
    path = folder / "evaluations" / "likelihood-0.json"
    path.parent.mkdir(exist_ok=True)
    command = f"python -m experiments.paper_items.likelihood {folder}"
    report = {"run": str(folder), **provenance(command), "settings": {"split": "test"}, "metrics": found}
    write_json(path, report)
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
