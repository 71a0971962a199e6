"""What becomes of a promoted model: exported with a card, found again by its version, talked to."""

import subprocess
from pathlib import Path

import pytest
from command_line import CommandLine
from huggingface_hub import ModelCard

ALWAYS = (
    "promotion.tolerances={preferred_rate: 1, answer_accuracy: 1, ranking_accuracy: 1, repetition: 1, unfinished: 1}"
)


def chat(line: CommandLine, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [line.python, str(line.root / "tools" / "chat.py"), "--max-new-tokens", "12", *arguments]
    return subprocess.run(command, env=line.variables, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.slow
def test_a_promoted_model_is_exported_and_found_again(command_line: CommandLine, small: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "zoo"
    found = command_line.summary(
        tmp_path / "s.json",
        *("--run-training", "--config", str(small), "--set", ALWAYS, "--set", f"export.dir={target}"),
        *("--set", "export.formats=[merged, int8, int4]", "--set", "export.parity.int4={agreement: 1.0, kl: 1.0e-9}"),
    )
    assert found["promotion"]["promoted"] == "dpo"
    merged, int8, int4 = found["exports"]
    assert (merged["path"], int8["path"], int4["path"]) == (str(target), f"{target}-int8", None)
    assert "int4 is not published: it agrees with the merged model at" in int4["problem"]
    assert sorted(path.name for path in target.parent.iterdir()) == ["zoo", "zoo-int8"]
    assert int8["parity"]["agreement"] >= 0.95

    card = ModelCard.load(target / "README.md")
    assert card.data.to_dict()["pipeline_tag"] == "text-generation"
    assert "# small, version 1" in card.text
    assert Path(found["artifacts"]["model_card"]).exists()

    asked = ("--prompt", "Where does the otter live?")
    answers = [chat(command_line, name, *asked) for name in ("small@staging", "small@1:dpo", str(target))]
    assert [done.returncode for done in answers] == [0, 0, 0], answers
    assert len({done.stdout for done in answers}) == 1
    assert chat(command_line, "small@1:base", *asked).stdout == chat(command_line, "embedded", *asked).stdout

    for name, message in (
        ("small@7", "The model 'small' has no version or stage '7'. There are: 1 (staging)."),
        ("small@1:rlhf", "Version 1 of 'small' has no model 'rlhf'. There are: base, dpo, sft."),
        ("smal@1", "There is no model 'smal'. There are: small."),
    ):
        done = chat(command_line, name, *asked)
        assert (done.returncode, done.stderr) == (2, f"Error: {message}\n")
    done = chat(command_line, *asked)  # of configs/training.yaml, which has not run here
    assert (done.returncode, done.stderr) == (2, "Error: There is no model 'embedded-default'. There are: small.\n")
