import os
from pathlib import Path

import pytest

from llm_engineering.config.tracking import TransformersTracking
from llm_engineering.errors import ConfigError
from llm_engineering.tracking import tracked_stage
from llm_engineering.tracking.other_trackers import require_trackers


def test_a_name_that_transformers_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"names 'weights', which transformers does not know. It knows: .*wandb"):
        require_trackers(["weights"])


def test_a_tracker_whose_package_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import integration_utils

    monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: False)  # whatever is installed here
    monkeypatch.setattr(integration_utils, "is_mlflow_available", lambda: True)
    with pytest.raises(ConfigError, match=r"names 'wandb', which transformers cannot use here: .* it can: mlflow"):
        require_trackers(["mlflow", "wandb"])


def test_a_tracker_that_is_there_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import integration_utils

    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: True)
    require_trackers(["tensorboard"])


def test_tensorboards_files_outlive_the_work_folder(tmp_path: Path) -> None:
    config = TransformersTracking(report_to=["tensorboard"])
    before = dict(os.environ)
    archive_dir = tmp_path / "comet-offline"
    with tracked_stage(config, stage="sft", name="toy-sft", tags=[], parameters={}, archive_dir=archive_dir) as tracker:
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard" / "toy-sft")
        tracker.log_metrics({"loss": 1.0}, step=1)
    assert tracker.link is None
    assert dict(os.environ) == before
    assert not archive_dir.exists()
