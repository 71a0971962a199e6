"""What an image holds, laid out in folders of this machine and started as the image is."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from dockerfile import context_files, read_dockerfile, run_install_line


@pytest.mark.slow
def test_the_packages_and_the_context_of_an_image_train_a_model(tmp_path: Path) -> None:
    stages = read_dockerfile()
    packages = tmp_path / "packages"
    packages.mkdir()
    installed = run_install_line("cpu", packages, "")
    assert installed.returncode == 0, installed.stderr
    for place, path in context_files().items():
        (tmp_path / "app" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "app" / place)

    def here(text: str) -> str:
        return (
            text.replace("/opt/venv", str(packages / "venv"))
            .replace("/app", str(tmp_path / "app"))
            .replace("/data", str(tmp_path / "data"))
            .replace("$PATH", os.environ["PATH"])
        )

    environment = dict(re.findall(r"(\w+)=(\S+)", here(stages["base"].all("ENV")[0])))
    entrypoint = [here(word) for word in json.loads(stages["cpu"].all("ENTRYPOINT")[0])]

    def start(*arguments: str) -> str:
        done = subprocess.run(
            [*entrypoint, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "zenml 0.98.0" in start("--version")
    start("python", "-m", "zenml.entrypoints.entrypoint", "--help")
    summary = tmp_path / "summary.json"
    start("--run-sft", "--set", "sft.max_steps=10", "--set", "tracking={type: none}", "--summary", str(summary))
    run = json.loads(summary.read_text(encoding="utf-8"))
    assert run["run"]["status"] == "completed"
    assert all(path.startswith(str(tmp_path / "data" / "zenml")) for path in run["artifacts"].values())
