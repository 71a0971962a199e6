from pathlib import Path

from llm_engineering.requirements import GOOGLE_PINS, constraints_for, image_tag, requirements_sha256, tag_of

PROJECT = '[project]\ndependencies = ["torch", "trl"]\n[project.optional-dependencies]\naws = ["boto3"]\n'
PINS = "torch==2.13.0\ntrl==1.14.2\n"


def sha256_of(folder: Path, project: str = PROJECT, pins: str = PINS, google: str = "gcsfs==2024.12.0\n") -> str:
    (folder / "pyproject.toml").write_text(project)
    (folder / "constraints.txt").write_text(pins)
    (folder / GOOGLE_PINS).parent.mkdir(parents=True, exist_ok=True)
    (folder / GOOGLE_PINS).write_text(google)
    return requirements_sha256(folder)


def test_another_pin_another_package_or_another_extra_is_another_hash(tmp_path: Path) -> None:
    hashes = {
        sha256_of(tmp_path),
        sha256_of(tmp_path, pins=PINS.replace("2.13.0", "2.13.1")),
        sha256_of(tmp_path, project=PROJECT.replace('"trl"', '"peft"')),
        sha256_of(tmp_path, project=PROJECT.replace('"boto3"', '"boto3", "s3fs"')),
        sha256_of(tmp_path, google="gcsfs==2025.1.0\n"),
    }
    assert len(hashes) == 5


def test_pins_of_google_clouds_packages_go_before_where_they_are_installed(tmp_path: Path) -> None:
    sha256_of(tmp_path, pins="urllib3==2.8.0\ntrl==1.14.2\n", google="# older\nurllib3==2.5.0\nkfp==2.16.1\n")
    assert constraints_for(["aws", ""], tmp_path) == "trl==1.14.2\nurllib3==2.8.0\n"
    assert constraints_for(["aws", "gcp"], tmp_path) == "kfp==2.16.1\ntrl==1.14.2\nurllib3==2.5.0\n"


def test_comments_the_order_of_lines_and_the_rest_of_the_project_do_not_count(tmp_path: Path) -> None:
    reordered = "# pins\ntrl==1.14.2\nTorch==2.13.0  # the CPU's too\n"
    project = PROJECT.replace('"torch", "trl"', '"trl", "torch"').replace("[project]", '[project]\nversion = "2"')
    assert sha256_of(tmp_path, project, reordered) == sha256_of(tmp_path)


def test_an_image_says_by_its_tag_what_it_was_built_of(tmp_path: Path) -> None:
    digits = sha256_of(tmp_path)[:12]
    assert image_tag(tmp_path) == digits
    assert tag_of(f"r/llm-engineering:cuda-{digits}") == digits
    assert tag_of(f"r/llm-engineering:{digits}") == digits
    assert tag_of("localhost:5000/llm-engineering:latest") is None
    assert tag_of("r/llm-engineering") is None
