"""The stand-in of Kubernetes plays jobs as a cluster does: asked by the client that ZenML uses."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="needs the extra emulation: make stacks-env")

import zenml.integrations.kubernetes.kube_utils  # noqa: F401 - mends the client, which cannot read a rule of exit codes
from kubernetes.client import ApiClient, ApiException, BatchV1Api, CoreV1Api
from kubernetes.config import new_client_from_config

from tools.stack_rehearsal.standins.jobs import Image, Machine
from tools.stack_rehearsal.standins.kubernetes import Cluster, kubernetes_standin
from tools.stack_rehearsal.standins.loopback import Recording

NAMESPACE = "training"
DEADLINE = 60.0
COUNT = {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [0]}}
IGNORE = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
GIVE_UP = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    machine = Machine(tmp_path / "jobs", Image(Path(sys.executable)))
    with kubernetes_standin(tmp_path, machine, Recording(tmp_path / "submitted.jsonl")) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Iterator[ApiClient]:
    with new_client_from_config(str(cluster.kubeconfig)) as client:
        yield client


def run(client: ApiClient, command: list[str], *, rules: list[dict[str, Any]] = [COUNT], **spec: Any) -> str:  # noqa: B006
    """Ask for a job, and return its name."""
    env = spec.pop("env", [])
    container = {"name": "main", "image": "registry/image:tag", "command": command, "env": env}
    body = {
        "metadata": {"name": "one"},
        "spec": {
            "backoffLimit": 0,
            "podFailurePolicy": {"rules": rules},
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
            **spec,
        },
    }
    BatchV1Api(client).create_namespaced_job(NAMESPACE, body)
    return "one"


def wait_for(seen: Callable[[], Any]) -> Any:
    limit = time.monotonic() + DEADLINE
    while not (found := seen()):
        assert time.monotonic() < limit
        time.sleep(0.05)
    return found


def ended(client: ApiClient, job: str) -> tuple[str, str]:
    """Return the condition that a job ends with, and its reason."""
    (condition,) = wait_for(lambda: BatchV1Api(client).read_namespaced_job(job, NAMESPACE).status.conditions)
    return condition.type, condition.reason


def pods(client: ApiClient, job: str) -> list[Any]:
    return list(CoreV1Api(client).list_namespaced_pod(NAMESPACE, label_selector=f"job-name={job}").items)


def test_a_pod_writes_its_log_and_is_called_by_its_name(client: ApiClient) -> None:
    job = run(client, ["python", "-c", "import socket; print('I am', socket.gethostname())"])
    assert ended(client, job) == ("Complete", "")
    (pod,) = pods(client, job)
    assert pod.status.phase == "Succeeded"
    assert CoreV1Api(client).read_namespaced_pod_log(pod.metadata.name, NAMESPACE) == f"I am {pod.metadata.name}\n"


def test_a_job_fails_once_more_pods_have_failed_than_it_may_lose(client: ApiClient) -> None:
    job = run(client, ["false"], backoffLimit=1)
    assert ended(client, job) == ("Failed", "BackoffLimitExceeded")
    assert [pod.status.container_statuses[0].state.terminated.exit_code for pod in pods(client, job)] == [1, 1]


def test_an_exit_code_that_the_policy_names_ends_the_job(client: ApiClient) -> None:
    job = run(client, ["bash", "-c", "exit 42"], rules=[GIVE_UP, COUNT], backoffLimit=3)
    assert ended(client, job) == ("Failed", "PodFailurePolicy")
    assert len(pods(client, job)) == 1


def test_a_pod_that_is_taken_away_is_replaced_and_counts_for_nothing(
    client: ApiClient, cluster: Cluster, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    job = run(client, ["bash", "-c", f"test -e {mark} || (touch {mark}; sleep 60)"], rules=[IGNORE, COUNT])
    wait_for(mark.exists)
    cluster.take_away(pods(client, job)[0].metadata.name)
    assert ended(client, job) == ("Complete", "")
    assert sorted(pod.status.phase for pod in pods(client, job)) == ["Failed", "Succeeded"]
    assert not BatchV1Api(client).read_namespaced_job(job, NAMESPACE).status.failed


def test_a_variable_comes_out_of_a_secret(client: ApiClient) -> None:
    CoreV1Api(client).create_namespaced_secret(
        NAMESPACE, {"metadata": {"name": "keys"}, "stringData": {"token": "abc"}}
    )
    variable = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}}
    job = run(client, ["bash", "-c", "echo $TOKEN"], env=[variable])
    assert ended(client, job) == ("Complete", "")
    (pod,) = pods(client, job)
    assert CoreV1Api(client).read_namespaced_pod_log(pod.metadata.name, NAMESPACE) == "abc\n"


def test_a_pod_waits_for_a_secret_that_is_not_there_and_goes_with_its_job(client: ApiClient) -> None:
    variable = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}}
    job = run(client, ["true"], env=[variable])
    (state,) = wait_for(
        lambda: [pod.status.container_statuses[0].state for pod in pods(client, job) if pod.status.container_statuses]
    )
    assert state.waiting.reason == "CreateContainerConfigError"
    BatchV1Api(client).delete_namespaced_job(job, NAMESPACE)
    with pytest.raises(ApiException, match="NotFound"):
        BatchV1Api(client).read_namespaced_job(job, NAMESPACE)


def test_what_a_cluster_refuses_is_refused_with_its_reason(client: ApiClient) -> None:
    with pytest.raises(ApiException, match="restartPolicy of a job is Never or OnFailure") as refused:
        run(
            client,
            ["true"],
            template={"spec": {"containers": [{"name": "main", "image": "image"}]}},
            podFailurePolicy=None,
        )
    assert refused.value.status == 422


def test_nobody_is_answered_without_the_token(cluster: Cluster) -> None:
    with new_client_from_config(str(cluster.kubeconfig)) as client:
        client.configuration.api_key.clear()
        with pytest.raises(ApiException, match="Unauthorized"):
            CoreV1Api(client).list_namespaced_pod(NAMESPACE)
