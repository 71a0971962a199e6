from pathlib import Path

import pytest
from command_line import REPOSITORY, SMALL, CommandLine


@pytest.fixture
def command_line(tmp_path: Path) -> CommandLine:
    return CommandLine(REPOSITORY, tmp_path / "zen")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path
