"""What cannot be rehearsed is refused before anything starts."""

from pathlib import Path

import pytest

from llm_engineering.config.stacks import read_stack
from llm_engineering.errors import ConfigError
from pipelines.stacks.rehearsal import rehearse


def test_a_stack_whose_artifacts_lie_in_another_store_than_s3_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"azureml keeps its artifacts in a store of the flavor 'azure'.* S3 alone"):
        list(rehearse(read_stack("azureml"), [], tmp_path / "folder"))
    assert not (tmp_path / "folder").exists()
