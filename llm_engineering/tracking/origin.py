"""What the experiments of one run have in common: by it they are tagged, linked and compared."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Account:
    """Whose Comet a stage logs to; what is None, Comet's own settings say."""

    api_key: str | None = field(default=None, repr=False)
    workspace: str | None = None
    project: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where a stage comes from: the run, its configuration, its code."""

    run: str = ""
    """The run's name."""
    run_id: str = ""
    """ZenML's id of the run."""
    step: str = ""
    """The step of the run that the stage is."""
    recipe: str = ""
    """The configuration's name."""
    model_version: str = ""
    """The version of the ZenML model that the run makes, as ``name:version``."""
    git_commit: str = ""
    """The commit of the code, with ``-dirty`` behind it where files were changed."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """The run's whole configuration, every default resolved."""
    experiments: Mapping[str, str] = field(default_factory=dict)
    """Keys of the experiments of the run's other stages, by stage."""
    account: Account = Account()

    def key_of(self, name: str) -> str | None:
        """Return the key that the experiment ``name`` gets; None outside of a run, where Comet draws one."""
        return experiment_key(self.run_id, self.step, name) if self.run_id else None

    def tags(self) -> list[str]:
        """Return what an experiment is found by."""
        found = [self.run, self.recipe, self.model_version, f"git:{self.git_commit[:12]}" if self.git_commit else ""]
        return [tag for tag in found if tag]

    def others(self) -> dict[str, str]:
        """Return what names run, configuration and code, and links the experiments of a run to each other."""
        found = {
            "zenml_run": self.run,
            "zenml_run_id": self.run_id,
            "recipe": self.recipe,
            "model_version": self.model_version,
            "git_commit": self.git_commit,
            **{f"{stage}_experiment": key for stage, key in self.experiments.items()},
        }
        return {name: value for name, value in found.items() if value}


def experiment_key(run_id: str, step: str, name: str) -> str:
    """Return the key of an experiment, which is known before it begins, so that an earlier one can name it."""
    return hashlib.sha256(f"{run_id}/{step}/{name}".encode()).hexdigest()[:32]
