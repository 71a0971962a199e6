"""What ZenML submits to Kubernetes is played, end to end."""

import pytest
from emulated import Open
from small_pipeline import IMAGE

from tools.stack_rehearsal.standins.kubernetes import CONTEXT, Cluster, Collection

pytestmark = pytest.mark.slow

PLACE = {"kubernetes_context": CONTEXT, "kubernetes_namespace": "training"}
ONE_GPU = {"pod_settings": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}


def orchestrator(**configuration: object) -> dict[str, object]:
    return {"orchestrator": {"flavor": "kubernetes", "configuration": {**PLACE, **configuration}}}


def test_a_pipeline_runs_as_it_was_submitted(standing: Open) -> None:
    with standing("kubernetes") as emulated:
        done = emulated.submit(
            orchestrator(pass_zenml_token_as_secret=True),
            options={"steps": {"add": {"settings": {"orchestrator": ONE_GPU}}}},
        )
        assert done.returncode == 0, done.stderr
        outcome = emulated.outcome()
        assert outcome["status"] == "completed", emulated.logs()
        assert outcome["values"]["total"] == 42
        assert all(place.startswith(f"s3://{emulated.bucket}/") for place in outcome["places"].values())
        assert outcome["values"]["library"] == str(emulated.jobs_of("locate")[0].app / "code" / "llm_engineering")

        posted = emulated.posted
        assert posted.keys() == {None, "count", "locate", "add"}  # None: the pod that starts the others
        assert {each.image for each in posted.values()} == {IMAGE}
        assert {step: each.gpus for step, each in posted.items()} == {None: 0, "count": 0, "locate": 0, "add": 1}
        assert not [each.name for each in posted.values() if "ZENML_STORE_API_TOKEN" in each.environment]
        text = emulated.emulation.surroundings.recording.path.read_text()
        assert not [what for what, secret in emulated.emulation.secrets.items() if secret in text]
        (cluster,) = emulated.emulation.standins
        assert isinstance(cluster, Cluster)
        assert cluster.select(Collection("secrets", "training")) == []  # the token goes with the run


def test_a_pod_that_fails_makes_the_run_fail_and_leaves_its_log(standing: Open) -> None:
    with standing("kubernetes") as emulated:
        emulated.submit(orchestrator(), options={"environment": {"SMALL_PIPELINE_FAILS": "1"}})
        assert emulated.outcome()["status"] == "failed"
        (cluster,) = emulated.emulation.standins
        assert isinstance(cluster, Cluster)
        pods = cluster.select(Collection("pods", "training"), "step_name=add", "status.phase=Failed")
        assert pods
        assert "This step was asked to fail." in cluster.log_of(pods[0]["metadata"]["name"])


def test_the_step_operator_sends_one_step_and_waits_for_it(standing: Open) -> None:
    with standing("kubernetes") as emulated:
        done = emulated.submit(
            {"step_operator": {"flavor": "kubernetes", "configuration": PLACE}},
            options={"steps": {"locate": {"step_operator": True, "settings": {"step_operator": ONE_GPU}}}},
        )
        assert done.returncode == 0, done.stderr
        outcome = emulated.outcome()
        assert outcome["status"] == "completed", emulated.logs()
        assert outcome["values"]["total"] == 42
        assert outcome["values"]["library"] == str(emulated.jobs_of("locate")[0].app / "code" / "llm_engineering")
        (posted,) = emulated.posted.values()
        assert (posted.step, posted.image, posted.gpus) == ("locate", IMAGE, 1)


def test_a_pod_that_is_taken_away_is_replaced_where_the_step_may_be_retried(standing: Open) -> None:
    with standing("kubernetes") as emulated:
        (cluster,) = emulated.emulation.standins
        assert isinstance(cluster, Cluster)
        emulated.submit_and_take_away(
            orchestrator(), lambda job: cluster.take_away(job.name), retry={"max_retries": 1, "delay": 0}
        )
        outcome = emulated.outcome()
        assert outcome["status"] == "completed", emulated.logs()
        assert [job.poll() for job in emulated.jobs_of("locate")] == [-9, 0]
        (job,) = cluster.select(Collection("jobs", "training"), "step_name=locate")
        # ZenML's policy for steps asks for the exit code first, which is 137: the disruption counts as a failure
        assert job["status"]["failed"] == 1
