"""What packages are installed by: versions for some extras, and all of it as one hash.

``python -m llm_engineering.requirements`` says a checkout's hash. With extras behind it, such as
``aws,kubernetes``, it says their constraints.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOOGLE_PINS = Path("configs/stacks/vertex.constraints.txt")
"""Of what the extra ``gcp`` brings, and of two packages that it wants older than all others do."""
_DIGITS_OF_TAGS = 12


def canonical(name: str) -> str:
    """Return a package's name as all indexes write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> dict[str, str]:
    """Return the versions that constraints pin, by canonical name."""
    pairs = (line.partition("#")[0].partition(";")[0].strip().split("==") for line in text.splitlines())
    return {canonical(pair[0]): pair[1] for pair in pairs if len(pair) == 2}


def constraints_for(extras: Iterable[str], root: Path = ROOT) -> str:
    """Return the constraints that an installation with some extras is held to, a package a line."""
    pins = read_pins((root / "constraints.txt").read_text(encoding="utf-8"))
    if "gcp" in extras:
        pins |= read_pins((root / GOOGLE_PINS).read_text(encoding="utf-8"))
    return "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))


def requirements_sha256(root: Path = ROOT) -> str:
    """Return the hash over what a checkout requires and pins; comments and the order of lines do not count.

    Args:
        root: Has ``pyproject.toml``, ``constraints.txt`` and :data:`GOOGLE_PINS`.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: sorted(wanted) for name, wanted in project["optional-dependencies"].items()}
    pins = constraints_for([], root), constraints_for(["gcp"], root)
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

    asked = ",".join(sys.argv[1:]).split(",")
    sys.stdout.write(constraints_for(asked) if sys.argv[1:] else f"{requirements_sha256()}\n")
