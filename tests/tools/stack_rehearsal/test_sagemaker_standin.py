"""What ZenML submits to SageMaker is played, end to end."""

import pytest
from emulated import Open
from small_pipeline import IMAGE

from tools.stack_rehearsal.standins.sagemaker import SageMaker

pytestmark = pytest.mark.slow

ROLE = "arn:aws:iam::123456789012:role/emulation"
ENTRY = ["python", "-m", "zenml.entrypoints.entrypoint"]


def orchestrator(bucket: str) -> dict[str, object]:
    configuration = {"execution_role": ROLE, "bucket": bucket, "region": "us-east-1", "synchronous": False}
    return {"orchestrator": {"flavor": "sagemaker", "configuration": configuration}}


def test_a_pipeline_runs_as_it_was_submitted(standing: Open) -> None:
    with standing("sagemaker") as emulated:
        done = emulated.submit(
            orchestrator(emulated.bucket),
            options={"settings": {"orchestrator": {"instance_type": "ml.g5.xlarge"}}},
        )
        assert done.returncode == 0, done.stderr
        outcome = emulated.outcome()
        assert outcome["status"] == "completed", emulated.logs()
        assert outcome["values"]["total"] == 42
        assert all(place.startswith(f"s3://{emulated.bucket}/") for place in outcome["places"].values())
        # the library came out of the code archive: it lies below the job's own /app
        assert outcome["values"]["library"] == str(emulated.jobs_of("locate")[0].app / "code" / "llm_engineering")

        posted = emulated.posted
        assert {step: each.after for step, each in posted.items()} == {
            "count": frozenset(),
            "locate": frozenset(),
            "add": {"count", "locate"},
        }
        assert {each.image for each in posted.values()} == {IMAGE}
        assert {each.machine for each in posted.values()} == {"ml.g5.xlarge"}
        assert all(each.command[:3] == ENTRY for each in posted.values())
        text = emulated.emulation.surroundings.recording.path.read_text()
        assert not [what for what, secret in emulated.emulation.secrets.items() if secret in text]


def test_a_step_that_fails_ends_the_execution_and_leaves_its_log(standing: Open) -> None:
    with standing("sagemaker") as emulated:
        done = emulated.submit(orchestrator(emulated.bucket), options={"environment": {"SMALL_PIPELINE_FAILS": "1"}})
        assert done.returncode == 0, done.stderr
        assert emulated.outcome()["status"] == "failed"
        assert "This step was asked to fail." in emulated.logs()
        (sagemaker,) = emulated.emulation.standins
        assert isinstance(sagemaker, SageMaker)
        (execution,) = sagemaker.executions.values()
        assert (execution.status, execution.reason) == ("Failed", "Step failure: add: AlgorithmError: , exit code: 1")


def test_the_step_operator_sends_one_step_and_waits_for_it(standing: Open) -> None:
    with standing("sagemaker") as emulated:
        operator = {"flavor": "sagemaker", "configuration": {"role": ROLE, "bucket": emulated.bucket}}
        done = emulated.submit(
            {"step_operator": operator},
            options={
                "steps": {
                    "locate": {
                        "step_operator": True,
                        "settings": {"step_operator": {"estimator_args": {"instance_type": "ml.g5.2xlarge"}}},
                    }
                }
            },
        )
        assert done.returncode == 0, done.stderr
        outcome = emulated.outcome()
        assert outcome["status"] == "completed", emulated.logs()
        assert outcome["values"]["total"] == 42
        assert outcome["values"]["library"] == str(emulated.jobs_of("locate")[0].app / "code" / "llm_engineering")
        (posted,) = emulated.posted.values()
        assert (posted.step, posted.image, posted.machine) == ("locate", IMAGE, "ml.g5.2xlarge")


def test_a_job_that_is_taken_away_is_submitted_again_after_the_delay(standing: Open) -> None:
    with standing("sagemaker") as emulated:
        (sagemaker,) = emulated.emulation.standins
        assert isinstance(sagemaker, SageMaker)
        operator = {"flavor": "sagemaker", "configuration": {"role": ROLE, "bucket": emulated.bucket}}
        emulated.submit_and_take_away(
            {"step_operator": operator},
            lambda job: sagemaker.take_away(job.name),
            steps={"locate": {"step_operator": True}},
            retry={"max_retries": 1, "delay": 3},
        )
        outcome = emulated.outcome()
        assert outcome["status"] == "completed", emulated.logs()
        first, second = emulated.jobs_of("locate")
        assert (first.poll(), second.poll()) == (-9, 0)
        assert second.started - first.ended >= 3
        assert [task.status for task in sagemaker.tasks.values()] == ["Failed", "Completed"]
