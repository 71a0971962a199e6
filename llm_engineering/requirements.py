"""What packages are installed by, as one hash: ``python -m llm_engineering.requirements`` says a checkout's."""

import hashlib
import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_DIGITS_OF_TAGS = 12


def canonical(name: str) -> str:
    """Return a package's name as all indexes write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> dict[str, str]:
    """Return the versions that constraints pin, by canonical name."""
    pairs = (line.partition("#")[0].partition(";")[0].strip().split("==") for line in text.splitlines())
    return {canonical(pair[0]): pair[1] for pair in pairs if len(pair) == 2}


def requirements_sha256(root: Path = ROOT) -> str:
    """Return the hash over what a checkout requires and pins; comments and the order of lines do not count.

    Args:
        root: Has ``pyproject.toml`` and ``constraints.txt``.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: sorted(wanted) for name, wanted in project["optional-dependencies"].items()}
    pins = read_pins((root / "constraints.txt").read_text(encoding="utf-8"))
    content = [sorted(project["dependencies"]), extras, pins]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def image_tag(root: Path = ROOT) -> str:
    """Return the digits that images are tagged by: the first of :func:`requirements_sha256`."""
    return requirements_sha256(root)[:_DIGITS_OF_TAGS]


def tag_of(image: str) -> str | None:
    """Return the :func:`image_tag` that an image's name ends in; None where its tag says something else."""
    found = re.search(rf":(?:[\w.-]+-)?([0-9a-f]{{{_DIGITS_OF_TAGS}}})$", image)
    return found[1] if found else None


if __name__ == "__main__":
    import sys

    sys.stdout.write(requirements_sha256() + "\n")
