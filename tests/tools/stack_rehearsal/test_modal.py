"""Modal's own client against the stand-in: what it posts arrives, and what it posted runs."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from emulated import Open
from small_pipeline import IMAGE

from tools.stack_rehearsal.standins.jobs import Image, Machine
from tools.stack_rehearsal.standins.loopback import Recording

modal = pytest.importorskip("modal", reason="modal is not installed here: run with .venv-stacks (`make stacks-env`)")

if TYPE_CHECKING:
    from tools.stack_rehearsal.standins.modal import ModalStandIn, Sandbox

DEADLINE = 20.0
REGISTRY_IMAGE = "registry.example/llm-engineering:1"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["ModalStandIn"]:
    from tools.stack_rehearsal.standins.modal import ModalStandIn

    machine = Machine(tmp_path / "machine", Image(Path(sys.executable)))
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.modal.toml
    with ModalStandIn(machine, Recording(tmp_path / "submitted.jsonl")) as stand_in:
        for name, value in stand_in.environment.items():
            monkeypatch.setenv(name, value)
        client = modal.Client.from_env()  # the one that all calls share
        yield stand_in
        client.close()


def test_every_method_of_the_stand_in_is_one_of_the_installed_modal() -> None:
    from modal_proto import api_pb2

    from tools.stack_rehearsal.standins.modal import METHODS, SERVICE

    known = api_pb2.DESCRIPTOR.services_by_name[SERVICE].methods_by_name
    gone = sorted(METHODS.keys() - known.keys())
    assert not gone, (
        f"modal {modal.__version__} has no {gone}: change tools/stack_rehearsal/standins/modal.py, or pin modal"
    )


def create(*command: str, **asked: object) -> "modal.Sandbox":
    app = modal.App.lookup("zenml-train", create_if_missing=True)
    return modal.Sandbox.create(*command, app=app, image=modal.Image.from_registry(REGISTRY_IMAGE), **asked)


def wait(sandbox: "modal.Sandbox") -> int:
    end = time.monotonic() + DEADLINE
    while (code := modal.Sandbox.from_id(sandbox.object_id).poll()) is None:
        assert time.monotonic() < end
    return int(code)


def only(stand_in: "ModalStandIn") -> "Sandbox":
    (sandbox,) = stand_in.sandboxes.values()
    return sandbox


@pytest.mark.parametrize("gpu", [None, "A100:2"])
def test_the_command_runs_with_the_variables_and_secrets_of_the_request(
    stand_in: "ModalStandIn", tmp_path: Path, gpu: str | None
) -> None:
    secret = modal.Secret.from_dict({"ZENML_STORE_API_TOKEN": "hidden"})
    show = "import os; print(os.environ['PLAIN'], os.environ['ZENML_STORE_API_TOKEN'])"
    assert wait(create("python", "-c", show, gpu=gpu, env={"PLAIN": "seen"}, secrets=[secret])) == 0
    sandbox = only(stand_in)
    assert sandbox.job.log.read_text() == "seen hidden\n"
    assert "hidden" not in (tmp_path / "submitted.jsonl").read_text()
    assert "hidden" not in repr(sandbox)


def test_what_is_asked_of_the_platform_is_recorded(stand_in: "ModalStandIn") -> None:
    create("true", gpu="H100:4", cpu=2.5, memory=17180, cloud="aws", region="eu-west-1", timeout=3600)
    sandbox = only(stand_in)
    assert (sandbox.app, sandbox.image, sandbox.command) == ("zenml-train", REGISTRY_IMAGE, ("true",))
    assert (sandbox.gpu, sandbox.num_gpus, sandbox.cpus, sandbox.memory) == ("H100", 4, 2.5, 17180)
    assert (sandbox.cloud, sandbox.regions, sandbox.timeout) == ("aws", ("eu-west-1",), 3600)


@pytest.mark.parametrize("gpu", [None, "T4"])
def test_a_failing_command_fails_its_sandbox(stand_in: "ModalStandIn", gpu: str | None) -> None:
    assert wait(create("python", "-c", "raise SystemExit(3)", gpu=gpu)) == 3


@pytest.mark.parametrize("gpu", [None, "T4"])
def test_a_terminated_sandbox_has_no_process_and_says_so(stand_in: "ModalStandIn", gpu: str | None) -> None:
    sandbox = create("sleep", "600", gpu=gpu)
    sandbox.terminate()
    assert wait(sandbox) == 137  # Modal's code for it
    assert only(stand_in).job.poll() is not None


GPU = {"step_operator": {"gpu": "A100-80GB"}, "resources": {"gpu_count": 2, "cpu_count": 8, "memory": "16GiB"}}


@pytest.mark.slow
def test_the_step_operator_asks_for_gpus_and_the_step_runs_as_it_was_submitted(standing: Open) -> None:
    with standing("modal") as emulated:
        operator = {"step_operator": {"flavor": "modal", "configuration": {}}}
        done = emulated.submit(operator, options={"steps": {"locate": {"step_operator": True, "settings": GPU}}})
        assert done.returncode == 0, done.stderr
        outcome = emulated.outcome()
        assert outcome["status"] == "completed", emulated.logs()
        assert outcome["values"]["total"] == 42
        assert outcome["values"]["library"] == str(emulated.jobs_of("locate")[0].app / "code" / "llm_engineering")
        (modal_stand_in,) = emulated.emulation.standins
        sandbox = only(modal_stand_in)
        assert (sandbox.image, sandbox.gpu, sandbox.num_gpus, sandbox.cpus) == (IMAGE, "A100-80GB", 2, 8)
        # 16 GiB are 17,179.9 MB; ZenML rounds that up, and Modal reads the number as MiB: 5 % more than was asked for
        assert sandbox.memory == 17180
        assert sandbox.command[:3] == ("python", "-m", "zenml.entrypoints.entrypoint")
        token = sandbox.secrets["ZENML_STORE_API_TOKEN"]
        text = emulated.emulation.surroundings.recording.path.read_text()
        assert token not in text
        assert not [what for what, secret in emulated.emulation.secrets.items() if secret in text]


@pytest.mark.slow
def test_the_orchestrator_runs_in_a_sandbox_that_makes_one_for_every_step(standing: Open) -> None:
    with standing("modal") as emulated:
        orchestrator = {"orchestrator": {"flavor": "modal", "configuration": {}}}
        settings = {"orchestrator": {"gpu": "T4"}, "resources": {"gpu_count": 1}}
        done = emulated.submit(orchestrator, options={"steps": {"locate": {"settings": settings}}})
        assert done.returncode == 0, done.stderr
        outcome = emulated.outcome()
        assert outcome["status"] == "completed", emulated.logs()
        assert outcome["values"]["total"] == 42
        posted = emulated.posted
        assert {step: each.gpus for step, each in posted.items()} == {None: 0, "count": 0, "locate": 1, "add": 0}
        assert {each.image for each in posted.values()} == {IMAGE}
        ended = max(job.ended for step in ("count", "locate") for job in emulated.jobs_of(step))
        assert emulated.jobs_of("add")[0].started >= ended
