"""What tools/promote.py refuses before it opens any store."""

import pytest
from click.testing import CliRunner

from tools.promote import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["3", "production", "--force"], "--force and --reason belong together"),
        (["3", "production", "--reason", "so"], "--force and --reason belong together"),
        (["3", "production", "--force", "--reason", "so", "--approve"], "--force asks nobody and --approve asks"),
        (["3", "production", "--force", "--reason", " "], "--reason is empty"),
        (["3", "best"], "Invalid value for 'STAGE': 'best' is not one of 'staging', 'production', 'archived'"),
        (["3", "production", "--set", "promotion.undecided=maybe"], "promotion.undecided"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
