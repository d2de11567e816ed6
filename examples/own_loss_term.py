"""A loss term of your own in a run: a bonus for policies that keep their options open.

python examples/own_loss_term.py [ENV_FRAMES]      docs/extending.md says what a term is given and must return
"""

import sys
import tempfile

import torch
from torch import Tensor

import upcycle


@upcycle.loss_term
def negative_entropy(inputs: upcycle.LossInputs, *, temperature: float = 1.0) -> Tensor:
    """The negative entropy of the softmax of the student's values, [B]."""
    log_policy = torch.log_softmax(inputs.outputs.q_values / temperature, dim=1)
    return (log_policy.exp() * log_policy).sum(dim=1)


def main() -> None:
    """Trains Catch with the term. The run's processes import this file, so it must be on their path: it is, here."""
    config = upcycle.load_preset(
        "catch",
        {
            "loss_terms.openness.use": "own_loss_term:negative_entropy",
            "loss_terms.openness.coefficient": 0.01,
            "loss_terms.openness.options.temperature": 0.5,
            "rl.env_frames": int(sys.argv[1]) if len(sys.argv) > 1 else 12_000,
            "evaluation.final_episodes": 20,
        },
    )
    with tempfile.TemporaryDirectory() as runs, upcycle.run(config, runs=runs) as run:
        summary = run.wait(timeout_seconds=600)
    print(f"{summary['state']}: return {summary['final']['mean_return']:.2f}")


if __name__ == "__main__":
    main()
