"""What ZenML is told of a stack: valid for its flavours, the GPUs asked for as each platform wants it."""

import json
import sys
from functools import cache
from pathlib import Path

import pytest
from zenml.stack import Flavor
from zenml.stack.flavor_registry import FlavorRegistry

import steps
from llm_engineering.config.hardware import TorchrunHardware
from llm_engineering.config.model import QloraAdapter
from llm_engineering.config.run import RunConfig
from llm_engineering.config.stacks import StackConfig, read_stack, shipped_stacks
from llm_engineering.errors import ConfigError
from pipelines.stacks.settings import gpus_asked, require_honest_gpus, require_image, run_options
from pipelines.stacks.settings import require_gpus as require_gpus_of


def stack(name: str) -> StackConfig:
    return read_stack(name).shown()


@cache
def flavors() -> dict[tuple[str, str], Flavor]:
    """Return ZenML's flavours; it knows them without the platforms' own packages."""
    registry = FlavorRegistry()
    made = [each() for each in [*registry.builtin_flavors, *registry.integration_flavors]]
    return {(each.type.value, each.name): each for each in made}


@pytest.mark.parametrize("name", shipped_stacks())
def test_every_setting_of_a_shipped_stack_is_one_of_its_flavour(name: str) -> None:
    config = stack(name)
    for kind, component in config.components.items():
        schema = flavors()[kind, component.flavor].config_class
        assert set(component.configuration) <= set(schema.model_fields), kind
        schema(**component.configuration)
        for machine in (config.cpu, config.gpu):
            settings = getattr(machine, kind, {})
            if settings:
                assert set(settings) <= set(schema.model_fields), (kind, machine.about)


@pytest.mark.parametrize("name", shipped_stacks())
def test_a_shipped_stack_asks_the_platform_for_the_gpus_it_says_it_has(name: str) -> None:
    config = stack(name)
    require_honest_gpus(name, config)
    assert config.gpu.gpus == 1
    assert config.cpu.gpus == 0


def test_kubernetes_is_asked_by_a_limit() -> None:
    pod = run_options(stack("kubernetes"))["steps"]["train_sft"]["settings"]["orchestrator"]["pod_settings"]
    assert pod["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    pod = run_options(stack("kubernetes-steps"))["steps"]["train_sft"]["settings"]["step_operator"]["pod_settings"]
    assert pod["resources"]["limits"] == {"nvidia.com/gpu": "1"}


def test_sagemaker_is_asked_by_the_instance_type() -> None:
    options = run_options(stack("sagemaker"))
    assert options["steps"]["train_dpo"]["settings"]["orchestrator"]["instance_type"] == "ml.g5.xlarge"
    assert options["settings"]["orchestrator"]["instance_type"] == "ml.m5.xlarge"
    assert gpus_asked(stack("sagemaker")) is None


def test_vertex_and_modal_are_asked_by_a_name_and_a_count() -> None:
    vertex = run_options(stack("vertex"))["steps"]["evaluate"]["settings"]
    assert vertex["orchestrator"]["node_selector_constraint"] == ["cloud.google.com/gke-accelerator", "NVIDIA_L4"]
    assert vertex["resources"]["gpu_count"] == "1"
    modal = run_options(stack("modal"))["steps"]["evaluate"]["settings"]
    assert modal["step_operator"] == {"gpu": "A100-80GB"}
    assert modal["resources"]["gpu_count"] == "1"


def test_zenmls_count_alone_asks_kubernetes_for_nothing() -> None:
    honest = stack("kubernetes")
    machine = honest.gpu.model_copy(update={"orchestrator": {}, "resources": {"gpu_count": 1}})
    with pytest.raises(ConfigError, match=r"mine says gpu\.gpus 1, but its settings ask the platform for 0"):
        require_honest_gpus("mine", honest.model_copy(update={"gpu": machine}))


def test_a_new_step_that_declares_a_gpu_gets_the_gpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is one that somebody adds to `steps`; nothing else is told of it."""
    source = """
from zenml import step

from steps.runtime.traits import traits


@traits(gpu=True)
@step
def distill() -> None:
    pass


@step
def count_teachers() -> None:
    pass
"""
    (tmp_path / "distill.py").write_text(source)
    monkeypatch.setattr(steps, "__path__", [*steps.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "steps.distill", raising=False)
    options = run_options(stack("sagemaker-steps"))
    assert options["steps"]["distill"]["step_operator"] is True
    assert options["steps"]["distill"]["settings"] == options["steps"]["train_sft"]["settings"]
    assert "count_teachers" not in options["steps"]
    assert "step_operator" not in options["settings"]
    vertex = run_options(stack("vertex"))["steps"]["distill"]["settings"]["orchestrator"]
    assert vertex["node_selector_constraint"] == ["cloud.google.com/gke-accelerator", "NVIDIA_L4"]


def test_the_image_is_taken_as_it_is_and_steps_are_retried_with_longer_waits() -> None:
    config = stack("kubernetes")
    options = run_options(config)
    docker = options["settings"]["docker"]
    assert (docker.parent_image, docker.skip_build) == (config.image, True)
    assert (options["retry"].max_retries, options["retry"].delay, options["retry"].backoff) == (3, 60, 2)


def test_an_image_of_other_versions_is_refused() -> None:
    old = stack("kubernetes").model_copy(update={"image": "r/llm-engineering:cuda-0123456789ab"})
    with pytest.raises(ConfigError, match=r"was built for other package versions .*tag 0123456789ab.*register mine"):
        require_image("mine", old)
    require_image("mine", old.model_copy(update={"image": "r/llm-engineering:by-hand"}))


def test_a_run_that_needs_a_gpu_is_refused_by_a_stack_without_one() -> None:
    run = RunConfig(adapter=QloraAdapter())
    config = stack("kubernetes")
    require_gpus_of("mine", config, run)
    machine = config.gpu.model_copy(update={"gpus": 0})
    with pytest.raises(ConfigError, match=r"adapter\.type qlora needs a GPU, and the stack mine has none"):
        require_gpus_of("mine", config.model_copy(update={"gpu": machine}), run)


def test_more_processes_than_gpus_are_refused() -> None:
    config = stack("kubernetes")
    two = RunConfig(hardware=TorchrunHardware(processes=2))
    with pytest.raises(ConfigError, match=r"hardware.processes is 2, and a GPU step of the stack mine has 1 GPU\."):
        require_gpus_of("mine", config, two)
    machine = config.gpu.model_copy(update={"gpus": 2})
    require_gpus_of("mine", config.model_copy(update={"gpu": machine}), two)


def test_what_is_told_can_be_written_down() -> None:
    for name in shipped_stacks():
        options = run_options(stack(name))
        assert json.dumps(options["steps"])
