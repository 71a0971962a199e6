"""The Dockerfile as stages of instructions, and the context that it is built of."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Stage:
    """One ``FROM`` and what stands below it."""

    name: str
    parent: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        """Return the arguments of every instruction of a kind."""
        return [arguments for name, arguments in self.instructions if name == keyword]


def read_dockerfile() -> dict[str, Stage]:
    """Return the stages by name, in order; build arguments in a ``FROM`` have their defaults."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    stages: dict[str, Stage] = {}
    defaults: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        keyword, _, arguments = line.strip().partition(" ")
        if keyword == "FROM":
            parent, _, name = arguments.partition(" AS ")
            stages[name] = Stage(name, re.sub(r"\$\{(\w+)\}", lambda found: defaults[found[1]], parent))
        elif keyword and not stages:
            assert keyword == "ARG"
            name, _, defaults_to = arguments.partition("=")
            defaults[name] = defaults_to
        elif keyword:
            list(stages.values())[-1].instructions.append((keyword, arguments))
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """Return a stage and those it is built upon, the first of them last."""
    found = [stages[name]]
    while found[-1].parent in stages:
        found.append(stages[found[-1].parent])
    return found


def context_files(root: Path = REPOSITORY) -> dict[str, Path]:
    """Return the files that a ``COPY .`` takes, by their place, as docker's own library filters them."""
    from docker.utils.build import exclude_paths

    patterns = [line.strip() for line in (root / ".dockerignore").read_text(encoding="utf-8").splitlines()]
    kept = exclude_paths(str(root), [line for line in patterns if line and not line.startswith("#")])
    return {place: root / place for place in kept - {".dockerignore"} if (root / place).is_file()}


def installing_environment() -> dict[str, str]:
    """Return this process's environment, whose indexes an installation takes, without its virtual environment."""
    return {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}


def run_install_line(target: str, folder: Path, extras: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the line that installs an image's packages, in a folder that holds what the image has copied by then.

    The environment is ``folder / "venv"``. PyTorch's own index is left out: torch is what the indexes at hand have.
    """
    (line,) = read_dockerfile()[f"{target}-packages"].all("RUN")
    for stage in lineage(read_dockerfile(), f"{target}-packages"):
        for *names, place in map(str.split, stage.all("COPY")):
            (folder / place).mkdir(parents=True, exist_ok=True)
            for name in names:
                shutil.copy(REPOSITORY / name, folder / place)
    uv = REPOSITORY / ".venv" / "bin" / "uv"
    environment = installing_environment() | {
        "EXTRAS": extras,
        "FLAGS": " ".join(flags),
        "UV": str(uv),
        "VIRTUAL_ENV": str(folder / "venv"),
    }
    subprocess.run([uv, "venv", "--quiet", "venv"], cwd=folder, env=environment, check=True)
    script = 'uv() { "$UV" "$@" $FLAGS; }\n' + line.replace("--no-cache ", "")  # a cache that is there is used here
    return subprocess.run(
        ["sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
