"""ZenML's own builder with the settings of docs/containers.md: it builds this Dockerfile, or nothing."""

import tarfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dockerfile import REPOSITORY, context_files
from zenml.config import DockerSettings
from zenml.image_builders import BuildContext
from zenml.utils import code_utils, source_utils
from zenml.utils.pipeline_docker_image_builder import PipelineDockerImageBuilder

from pipelines.launching.code_archive import sending_code


class Recorder:
    """An image builder that notes what it was to build: there is no docker here."""

    build_context_class = BuildContext
    is_building_locally = True

    def __init__(self) -> None:
        self.built: list[dict[str, Any]] = []

    def build(self, image_name: str, build_context: BuildContext, docker_build_options: Any, **_: Any) -> str:
        files = {place for place, path in build_context.get_files().items() if Path(path).is_file()}
        files |= set(build_context.get_extra_files())
        self.built.append({"name": image_name, "files": files, "options": docker_build_options})
        return image_name


def build(settings: DockerSettings) -> tuple[str, list[dict[str, Any]]]:
    """Return the image that a stack with a registry and the kubernetes integration would run, and what was built."""
    source_utils.set_custom_source_root(str(REPOSITORY))
    recorder = Recorder()
    stack: Any = SimpleNamespace(
        name="stack",
        validate=lambda: None,
        image_builder=recorder,
        container_registry=SimpleNamespace(config=SimpleNamespace(uri="registry.example", default_repository=None)),
        requirements=lambda: {"kubernetes"},
        apt_packages=[],
    )
    image, _, _ = PipelineDockerImageBuilder().build_docker_image(settings, "tag", stack, include_files=False)
    return image, recorder.built


def emulators(places: Iterable[str]) -> list[str]:
    return [place for place in places if place.startswith("tools/stack_rehearsal")]


def test_jobs_are_sent_the_code_of_a_run_and_no_emulators(tmp_path: Path) -> None:
    with sending_code(), (tmp_path / "code.tar.gz").open("w+b") as file:
        code_utils.CodeArchive(root=str(REPOSITORY)).write_archive(file)
    with tarfile.open(tmp_path / "code.tar.gz") as archive:
        places = archive.getnames()
    assert {"steps/train_sft.py", "llm_engineering/config/run.py", "configs/training.yaml"} <= set(places)
    assert not emulators(places)


def test_an_image_that_is_there_is_taken_as_it_is() -> None:
    image, built = build(DockerSettings(parent_image="registry.example/llm-engineering:cpu", skip_build=True))
    assert image == "registry.example/llm-engineering:cpu"
    assert not built


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_zenml_builds_the_dockerfile_once_and_lays_nothing_on_top(target: str) -> None:
    options = {"target": target, "build_args": {"EXTRAS": "kubernetes"}}
    settings = DockerSettings(
        dockerfile=str(REPOSITORY / "Dockerfile"),
        build_context_root=str(REPOSITORY),
        parent_image_build_config={"build_options": options},
        install_stack_requirements=False,
    )
    image, built = build(settings)
    assert image == "registry.example/zenml:tag"
    (only,) = built
    assert only["name"] == image
    assert only["files"] == {*context_files(), "Dockerfile"}
    assert not emulators(only["files"])
    assert only["options"].to_docker_python_sdk_options() == {"target": target, "buildargs": {"EXTRAS": "kubernetes"}}


def test_requirements_that_zenml_installs_itself_would_be_a_layer_on_top() -> None:
    settings = DockerSettings(dockerfile=str(REPOSITORY / "Dockerfile"), build_context_root=str(REPOSITORY))
    _, built = build(settings)
    assert len(built) == 2
