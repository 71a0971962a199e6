import re
from pathlib import Path

import pytest

from llm_engineering.checkup.requirements import require_current_image, requirements_sha256
from llm_engineering.errors import ImageError

PROJECT = '[project]\ndependencies = ["torch", "trl"]\n[project.optional-dependencies]\naws = ["boto3"]\n'
PINS = "torch==2.13.0\ntrl==1.14.2\n"


def sha256_of(folder: Path, project: str = PROJECT, pins: str = PINS) -> str:
    (folder / "pyproject.toml").write_text(project)
    (folder / "constraints.txt").write_text(pins)
    return requirements_sha256(folder)


def test_another_pin_another_package_or_another_extra_is_another_hash(tmp_path: Path) -> None:
    hashes = {
        sha256_of(tmp_path),
        sha256_of(tmp_path, pins=PINS.replace("2.13.0", "2.13.1")),
        sha256_of(tmp_path, project=PROJECT.replace('"trl"', '"peft"')),
        sha256_of(tmp_path, project=PROJECT.replace('"boto3"', '"boto3", "s3fs"')),
    }
    assert len(hashes) == 4


def test_comments_the_order_of_lines_and_the_rest_of_the_project_do_not_count(tmp_path: Path) -> None:
    reordered = "# pins\ntrl==1.14.2\nTorch==2.13.0  # the CPU's too\n"
    project = PROJECT.replace('"torch", "trl"', '"trl", "torch"').replace("[project]", '[project]\nversion = "2"')
    assert sha256_of(tmp_path, project, reordered) == sha256_of(tmp_path)


def test_an_image_of_other_requirements_is_refused() -> None:
    require_current_image("llm-engineering:cpu", "a" * 64, "a" * 64)
    said = (
        "The image llm-engineering:cpu was built of the requirements bbbbbbbbbbbb, this code has aaaaaaaaaaaa. "
        "Build it again with `make image`, and push it."
    )
    with pytest.raises(ImageError, match=f"^{re.escape(said)}$"):
        require_current_image("llm-engineering:cpu", "b" * 64, "a" * 64)


def test_an_image_that_does_not_say_what_it_was_built_of_is_refused() -> None:
    with pytest.raises(ImageError, match="llm-engineering:cpu was built without saying of what, this code has a"):
        require_current_image("llm-engineering:cpu", "unknown", "a" * 64)
