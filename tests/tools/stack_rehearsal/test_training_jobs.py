"""The stand-in of SageMaker plays jobs and pipelines: asked by boto3, as by ZenML."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("moto", reason="needs the extra emulation: make stacks-env")

import boto3
from botocore.exceptions import ClientError

from tools.stack_rehearsal.standins.jobs import Image, Machine
from tools.stack_rehearsal.standins.loopback import Recording
from tools.stack_rehearsal.standins.s3 import REGION, aws_standin
from tools.stack_rehearsal.standins.sagemaker import SageMaker, sagemaker_standin

ROLE = "arn:aws:iam::123456789012:role/emulation"
DEADLINE = 60.0


@pytest.fixture(scope="module")
def sagemaker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SageMaker]:
    folder = tmp_path_factory.mktemp("sagemaker")
    with aws_standin() as aws:
        machine = Machine(folder / "jobs", Image(Path(sys.executable)), aws.environment)
        with sagemaker_standin(aws, machine, Recording(folder / "submitted.jsonl")) as sagemaker:
            yield sagemaker


@pytest.fixture(scope="module")
def client(sagemaker: SageMaker) -> Any:
    return client_with(sagemaker, sagemaker.aws.access_key)


def client_with(sagemaker: SageMaker, access_key: str) -> Any:
    return boto3.client(
        "sagemaker",
        endpoint_url=sagemaker.url,
        region_name=REGION,
        aws_access_key_id=access_key,
        aws_secret_access_key=sagemaker.aws.secret_key,
    )


def training(command: str, **changes: Any) -> dict[str, Any]:
    image = {"TrainingImage": "registry/image:tag", "TrainingInputMode": "File"}
    return {
        "AlgorithmSpecification": {**image, "ContainerEntrypoint": ["bash", "-c"], "ContainerArguments": [command]},
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": "s3://bucket/"},
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        **changes,
    }


def wait_for(seen: Callable[[], Any]) -> Any:
    limit = time.monotonic() + DEADLINE
    while not (found := seen()):
        assert time.monotonic() < limit
        time.sleep(0.05)
    return found


def ended(client: Any, job: str) -> dict[str, Any]:
    """Return the description of a job that has ended."""

    def description() -> dict[str, Any] | None:
        said: dict[str, Any] = client.describe_training_job(TrainingJobName=job)
        return None if said["TrainingJobStatus"] in ("InProgress", "Stopping") else said

    found: dict[str, Any] = wait_for(description)
    return found


def test_a_job_is_in_progress_until_its_command_has_ended(client: Any, sagemaker: SageMaker, tmp_path: Path) -> None:
    go = tmp_path / "go"
    client.create_training_job(
        TrainingJobName="good",
        **training(f'until test -e {go}; do sleep 0.05; done; echo "$NAME of $TRAINING_JOB_NAME"'),
        Environment={"NAME": "one"},
    )
    assert client.describe_training_job(TrainingJobName="good")["TrainingJobStatus"] == "InProgress"
    go.touch()
    assert ended(client, "good")["TrainingJobStatus"] == "Completed"
    assert sagemaker.tasks["good"].jobs[0].log.read_text() == "one of good\n"


def test_a_job_that_fails_says_so(client: Any) -> None:
    client.create_training_job(TrainingJobName="bad", **training("exit 3"))
    said = ended(client, "bad")
    assert (said["TrainingJobStatus"], said["FailureReason"]) == ("Failed", "AlgorithmError: , exit code: 3")


def test_a_job_can_be_stopped(client: Any, sagemaker: SageMaker) -> None:
    client.create_training_job(TrainingJobName="long", **training("sleep 60"))
    wait_for(lambda: sagemaker.tasks["long"].jobs)
    client.stop_training_job(TrainingJobName="long")
    assert ended(client, "long")["TrainingJobStatus"] == "Stopped"


@pytest.mark.parametrize(("spot", "status"), [(True, "Completed"), (False, "Failed")])
def test_only_a_job_on_spot_instances_starts_again_when_its_machine_is_taken_away(
    client: Any, sagemaker: SageMaker, tmp_path: Path, spot: bool, status: str
) -> None:
    mark, name = tmp_path / "mark", f"spot-{spot}".lower()
    command = f"test -e {mark} || (touch {mark}; sleep 60)"
    limit = {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 3600}
    client.create_training_job(
        TrainingJobName=name, **training(command, EnableManagedSpotTraining=spot, StoppingCondition=limit)
    )
    wait_for(mark.exists)
    sagemaker.take_away(name)
    assert ended(client, name)["TrainingJobStatus"] == status
    assert len(sagemaker.tasks[name].jobs) == (2 if spot else 1)


def test_a_pipeline_runs_its_steps_in_order_and_ends_with_the_first_that_fails(
    client: Any, sagemaker: SageMaker
) -> None:
    def step(name: str, command: str, *after: str) -> dict[str, Any]:
        variable = {"RUN": {"Get": "Execution.PipelineExecutionArn"}}
        return {
            "Name": name,
            "Type": "Training",
            "Arguments": training(command, Environment=variable),
            "DependsOn": after,
        }

    steps = [step("third", "true", "second"), step("second", "exit 1", "first"), step("first", "echo $RUN")]
    definition = json.dumps({"Version": "2020-12-01", "Steps": steps})
    client.create_pipeline(
        PipelineName="three", PipelineDefinition=definition, RoleArn=ROLE, ClientRequestToken="x" * 32
    )
    arn = client.start_pipeline_execution(PipelineName="three")["PipelineExecutionArn"]

    def description() -> Any:
        said = client.describe_pipeline_execution(PipelineExecutionArn=arn)
        return said if said["PipelineExecutionStatus"] != "Executing" else None

    said = wait_for(description)
    assert said["PipelineExecutionStatus"] == "Failed"
    assert said["FailureReason"] == "Step failure: second: AlgorithmError: , exit code: 1"
    tasks = sagemaker.executions[arn].tasks
    assert list(tasks) == ["first", "second"]
    assert tasks["first"].jobs[0].log.read_text() == f"{arn}\n"


def test_what_sagemaker_refuses_is_refused_and_not_run(client: Any, sagemaker: SageMaker) -> None:
    with pytest.raises(ClientError, match="has 600 characters, more than 512"):
        client.create_training_job(TrainingJobName="loud", **training("true", Environment={"NAME": "x" * 600}))
    assert "loud" not in sagemaker.tasks


def test_nobody_is_answered_without_the_access_key(sagemaker: SageMaker) -> None:
    with pytest.raises(ClientError, match="UnrecognizedClientException"):
        client_with(sagemaker, "AKIAANOTHER").list_training_jobs()


def test_what_was_submitted_is_only_for_its_owner(sagemaker: SageMaker) -> None:
    assert sagemaker.recording.path.stat().st_mode & 0o777 == 0o600
