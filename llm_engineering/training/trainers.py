"""What both trainers have beside TRL's own: checks, sealed checkpoints, and answers at every evaluation."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute
import torch
from transformers import TrainerState
from transformers.trainer_utils import rotate_checkpoints

from llm_engineering.errors import TrainingError
from llm_engineering.models.checkpoints import broken_weight
from llm_engineering.training.finite import FiniteUpdates
from llm_engineering.training.memory import worth_trying
from llm_engineering.training.part import Probe
from llm_engineering.training.processes.trainer import ManyProcesses
from llm_engineering.training.recovery import seal, writing
from llm_engineering.training.upstream import require_upstream

if TYPE_CHECKING:
    from datasets import Dataset


class StageTrainer(FiniteUpdates, ManyProcesses):
    """The trainer of either stage; rows are tokenised already."""

    probes: Sequence[Probe] = ()
    evaluation_seconds: float = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_upstream(self.stage, self)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Prepare as TRL does, take up its count of tokens, and see that memory lasts."""
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        logged = [entry["num_tokens"] for entry in self.state.log_history if "num_tokens" in entry]
        self._total_train_tokens = int(logged[-1]) if logged else 0
        self._try_largest_batch()
        return prepared

    def _try_largest_batch(self) -> None:
        """Run the largest batch that the sampler could draw forward and backward, where that costs next to nothing.

        Weights, gradients, random state, metrics and counters stay as they are.
        """
        batches = self.state.max_steps * self.args.gradient_accumulation_steps
        if not self.is_deepspeed_enabled and worth_trying(batches, self.args.device.type):  # else an update is made
            sizes = self.row_sizes()
            self.try_without_trace(sorted(range(len(sizes)), key=sizes.__getitem__)[-self.args.train_batch_size :])

    def row_sizes(self) -> list[int]:
        """Return how many tokens of every training row take memory."""
        raise NotImplementedError

    def try_without_trace(self, indices: Sequence[int]) -> None:
        """Run some training rows forward and backward as one batch, with room for the optimizer, and forget it."""
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        moments = 2 if isinstance(optimizer, torch.optim.AdamW) and not optimizer.state else 0
        room = [torch.empty_like(p) for _ in range(moments) for p in self._trained()]
        tokens = self._total_train_tokens
        with torch.random.fork_rng():
            self.try_rows(indices)
        del room
        self.model.zero_grad()
        self._metrics["train"].clear()
        self._total_train_tokens = tokens

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Return TRL's metrics on the held-out rows, and those of the probes: of generated answers, for example.

        Early stopping and the choice of the best checkpoint can go by either. The random state is left as it was (a
        DataLoader draws from it too), so that how often a training is evaluated changes no weight.
        """
        started = time.perf_counter()
        with torch.random.fork_rng():
            output = super().evaluation_loop(*args, **kwargs)
        for probe in self.probes:
            found = self.from_first(probe(self))
            output.metrics.update({f"eval_{name}": value for name, value in found.items()})
        self.evaluation_seconds += time.perf_counter() - started
        return output

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: a checkpoint in progress is not published."""

    def take_up(self, checkpoint: Path) -> None:
        """Take state and weights of a training that had ended, the best weights where a metric chooses them.

        Resuming it would make one update more: Trainer looks for the end only after an update.
        """
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        self._load_from_checkpoint(best or str(checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save and seal a checkpoint, and only then remove those that it replaces.

        Raises:
            TrainingError: The weights hold something that is no number; resuming from them would be of no use. Or the
                checkpoint cannot be written.
        """
        self.require_finite()
        if broken_weight((name, p) for name, p in model.named_parameters() if p.requires_grad):
            raise TrainingError(
                f"The weights are not finite at step {self.state.global_step}. Lower the learning rate or "
                "max_grad_norm; the last good checkpoint is kept."
            )
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        kept, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with writing(checkpoint):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # each process writes its random state
                if self.is_first:
                    seal(checkpoint)
        finally:
            self.args.save_total_limit = kept
        if self.is_first:
            rotate_checkpoints(self.args.output_dir, kept, self.state.best_model_checkpoint)


def token_counts(dataset: "Dataset", column: str) -> list[int]:
    """Return the lengths of a column's lists, without reading the lists."""
    lists = dataset.with_format("arrow")[:][column]
    counts: list[int] = pyarrow.compute.list_value_length(lists).to_pylist()
    return counts
