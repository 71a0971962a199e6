import shutil
import subprocess
from pathlib import Path

import pytest
from dockerfile import REPOSITORY, installing_environment

UV = REPOSITORY / ".venv" / "bin" / "uv"


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, built as `make package` does."""
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for path in tracked.stdout.splitlines():
        if (REPOSITORY / path).is_file():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / path, source / path)
    out = tmp_path_factory.mktemp("dist")
    command = [UV, "build", "--quiet", "--build-constraints", "constraints.txt", "--out-dir", out]
    subprocess.run(command, cwd=source, env=installing_environment(), check=True)
    return out


@pytest.fixture(scope="session")
def installed(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel and what it requires, and nothing else."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    environment = installing_environment()
    subprocess.run([UV, "venv", "--quiet", venv], env=environment, check=True)
    (wheel,) = distributions.glob("*.whl")
    command = [UV, "pip", "install", "--quiet", "--constraint", REPOSITORY / "constraints.txt", wheel]
    subprocess.run(command, env=environment | {"VIRTUAL_ENV": str(venv)}, check=True)
    return venv / "bin" / "python"
