"""The stand-ins refuse what the platforms refuse."""

from copy import deepcopy
from typing import Any

import pytest

pytest.importorskip("botocore", reason="needs the extra emulation: make stacks-env")
pytest.importorskip("kubernetes", reason="needs the extra emulation: make stacks-env")

from tools.stack_rehearsal.standins.aws_shapes import faults_of as faults_of_request
from tools.stack_rehearsal.standins.kubernetes_rules import faults_of as faults_of_manifest
from tools.stack_rehearsal.standins.sagemaker import definition_faults

TRAINING = {
    "AlgorithmSpecification": {"TrainingImage": "registry/image:tag", "TrainingInputMode": "File"},
    "RoleArn": "arn:aws:iam::123456789012:role/emulation",
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/"},
    "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
}


def training(**changes: Any) -> dict[str, Any]:
    return {"TrainingJobName": "one", **deepcopy(TRAINING), **changes}


def test_a_training_job_within_the_limits_is_accepted() -> None:
    assert faults_of_request("CreateTrainingJob", training(Environment={"NAME": "x" * 512})) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"Environment": {"NAME": "x" * 513}}, "CreateTrainingJob.Environment.NAME has 513 characters, more than 512."),
        (
            {"Environment": {f"N{i}": "" for i in range(101)}},
            "CreateTrainingJob.Environment has 101 entries, more than 100.",
        ),
        (
            {"Environment": {"1ST": ""}},
            "a name in CreateTrainingJob.Environment does not match [a-zA-Z_][a-zA-Z0-9_]*.",
        ),
        ({"RoleArn": "role/emulation"}, "CreateTrainingJob.RoleArn has 14 characters, fewer than 20."),
        (
            {"ResourceConfig": {"InstanceType": "g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30}},
            "CreateTrainingJob.ResourceConfig.InstanceType is 'g5.xlarge', which is none of the ",
        ),
        ({"TrainingJobName": "train_sft"}, "CreateTrainingJob.TrainingJobName does not match "),
    ],
)
def test_sagemaker_refuses_what_breaks_its_limits(changes: dict[str, Any], fault: str) -> None:
    first, *_ = faults_of_request("CreateTrainingJob", training(**changes))
    assert first.startswith(fault)


def test_a_step_of_a_pipeline_is_held_against_the_same_limits() -> None:
    steps = [
        {"Name": "train_sft", "Type": "Training", "Arguments": TRAINING},
        {
            "Name": "merge_sft",
            "Type": "Training",
            "Arguments": {
                **TRAINING,
                "Environment": {"RUN": {"Get": "Execution.PipelineExecutionArn"}, "NAME": "x" * 600},
            },
            "DependsOn": ["train_sft", "train"],
        },
    ]
    assert definition_faults({"Steps": steps}) == [
        "merge_sft depends on train, which is no step.",
        "merge_sft: CreateTrainingJob.Environment.NAME has 600 characters, more than 512.",
    ]


def job(**container: Any) -> dict[str, Any]:
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "registry/image:tag", **container}]}
    return {"metadata": {"name": "one", "labels": {"step": "train_sft"}}, "spec": {"template": {"spec": pod}}}


def test_a_job_that_asks_for_a_gpu_is_accepted() -> None:
    resources = {"requests": {"memory": "400Mi", "cpu": "500m"}, "limits": {"nvidia.com/gpu": "1"}}
    assert faults_of_manifest("jobs", job(resources=resources)) == []


@pytest.mark.parametrize(
    ("container", "fault"),
    [
        ({"env": [{"name": "N", "value": 1}]}, "spec.template.spec.containers[0].env[0].value is 1, not of type str."),
        ({"resource": {}}, "spec.template.spec.containers[0].resource is no field of Container."),
        ({"image": ""}, "spec.template.spec.containers[0].image is missing."),
        (
            {"resources": {"requests": {"nvidia.com/gpu": "1"}}},
            "spec.template.spec.containers[0].resources: nvidia.com/gpu is an extended resource, whose limit must be "
            "what is requested.",
        ),
        (
            {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "2000Mi"}}},
            "spec.template.spec.containers[0].resources: memory requests 2Gi, more than its limit 2000Mi.",
        ),
        (
            {"resources": {"limits": {"memory": "8GB"}}},
            "spec.template.spec.containers[0].resources.limits.memory '8GB' is no quantity.",
        ),
        (
            {"volumeMounts": [{"name": "work", "mountPath": "/work"}]},
            "spec.template.spec.containers[0].volumeMounts: there is no volume 'work'.",
        ),
    ],
)
def test_kubernetes_refuses_a_container_that_it_cannot_run(container: dict[str, Any], fault: str) -> None:
    assert faults_of_manifest("jobs", job(**container)) == [fault]


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        ({"name": "train_sft"}, "metadata.name 'train_sft' is no DNS label (small letters, digits and -, at most 63)."),
        ({"name": "x" * 64}, f"metadata.name {'x' * 64!r} is no DNS label (small letters, digits and -, at most 63)."),
        (
            {"labels": {"run": "x" * 64}},
            f"metadata.labels.run {'x' * 64!r} is no value of a label (at most 63 characters).",
        ),
    ],
)
def test_kubernetes_refuses_names_that_are_none(metadata: dict[str, Any], fault: str) -> None:
    assert faults_of_manifest("jobs", {**job(), "metadata": metadata}) == [fault]
