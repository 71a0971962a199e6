"""What can be asked of each platform itself: whether it answers, and how many GPUs it would give."""

from collections.abc import Callable, Iterator
from typing import Any

from zenml.enums import StackComponentType
from zenml.models import ComponentResponse, StackResponse

from llm_engineering.checkup.finding import Finding
from llm_engineering.config.stacks import StackConfig

SECONDS = 10
"""How long a platform has to answer."""


def examine_platform(stack: StackResponse, config: StackConfig) -> Iterator[Finding]:
    """Ask the platform that GPU steps run on; credentials are the environment's, as they are at submission."""
    kind = StackComponentType.STEP_OPERATOR if config.step_operator else StackComponentType.ORCHESTRATOR
    component = stack.components[kind][0]
    flavor = str(component.flavor_name)
    if flavor not in _REACH:
        yield Finding("platform", "note", f"{flavor} is not asked: its steps run where it is")
        return
    remedy = "Log in to the platform, or mend what the account may do."
    try:
        yield from _REACH[flavor](component, config)
    except Exception as error:  # noqa: BLE001 - every SDK raises its own
        yield Finding("platform", "problem", f"{flavor} does not answer as it should: {_first(error)}", remedy)
        return
    try:
        yield from _COUNT_GPUS[flavor](component, config) if config.gpu.gpus and flavor in _COUNT_GPUS else ()
    except Exception as error:  # noqa: BLE001 - asking for quotas takes rights that submitting does not
        yield Finding("GPUs", "note", f"{flavor} does not say how many there are: {_first(error)}", remedy)


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _ask_kubernetes(component: ComponentResponse, config: StackConfig) -> Iterator[Finding]:
    from kubernetes import client
    from kubernetes import config as kube_config

    context = component.configuration.get("kubernetes_context")
    api = kube_config.new_client_from_config(context=context)
    answered = client.VersionApi(api).get_code(_request_timeout=SECONDS)
    yield Finding("platform", "ok", f"the cluster of the context {context} answers, Kubernetes {answered.git_version}")


def _count_in_kubernetes(component: ComponentResponse, config: StackConfig) -> Iterator[Finding]:
    from kubernetes import client
    from kubernetes import config as kube_config

    api = kube_config.new_client_from_config(context=component.configuration.get("kubernetes_context"))
    settings: dict[str, Any] = config.gpu.step_operator if config.step_operator else config.gpu.orchestrator
    labels = (settings.get("pod_settings") or {}).get("node_selectors") or {}
    selector = ",".join(f"{name}={value}" for name, value in labels.items())
    nodes = client.CoreV1Api(api).list_node(label_selector=selector, _request_timeout=SECONDS).items
    most = max((int(node.status.allocatable.get("nvidia.com/gpu", 0)) for node in nodes), default=0)
    words = f"{len(nodes)} nodes with {selector or 'any label'}, at most {most} GPUs on one"
    if most < config.gpu.gpus:
        remedy = "Lower the number, name another node label, or let the cluster's autoscaler add such nodes."
        yield Finding("GPUs", "note", f"{words}; a GPU step asks for {config.gpu.gpus}", remedy)
    else:
        yield Finding("GPUs", "ok", words)


def _ask_sagemaker(component: ComponentResponse, config: StackConfig) -> Iterator[Finding]:
    account = _aws("sts", component).get_caller_identity()["Account"]
    yield Finding("platform", "ok", f"AWS answers for the account {account[:4]}…")


def _aws(service: str, component: ComponentResponse) -> Any:
    import boto3
    from botocore.config import Config

    limits = Config(connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": 2})
    return boto3.client(service, region_name=component.configuration.get("region"), config=limits)


def _count_in_sagemaker(component: ComponentResponse, config: StackConfig) -> Iterator[Finding]:
    settings: dict[str, Any] = config.gpu.step_operator or config.gpu.orchestrator
    instance = settings.get("instance_type") or (settings.get("estimator_args") or {}).get("instance_type")
    pages = _aws("service-quotas", component).get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    wanted = f"{instance} for training job usage"
    allowed = next((q["Value"] for page in pages for q in page["Quotas"] if q["QuotaName"] == wanted), None)
    if allowed is None:
        yield Finding("GPUs", "note", f"AWS names no quota for {instance}", "Look it up in the console.")
    elif allowed < 1:
        remedy = "Ask AWS for more in the console of Service Quotas, or take another instance type."
        yield Finding("GPUs", "problem", f"the quota of {instance} for training jobs is {allowed:g}", remedy)
    else:
        yield Finding("GPUs", "ok", f"{allowed:g} × {instance} for training jobs at once")


def _ask_vertex(component: ComponentResponse, config: StackConfig) -> Iterator[Finding]:
    import google.auth

    _, project = google.auth.default()
    yield Finding("platform", "ok", f"credentials for Google Cloud are there, project {project}")
    remedy = "Look at the quota `Custom model training GPUs` of the region in the console."
    yield Finding("GPUs", "note", f"the quota of {config.gpu.about} is not asked for", remedy)


def _ask_azureml(component: ComponentResponse, config: StackConfig) -> Iterator[Finding]:
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    found = component.configuration
    workspace = found.get("workspace") or found.get("workspace_name")
    ml = MLClient(DefaultAzureCredential(), found["subscription_id"], found["resource_group"], workspace)
    yield Finding("platform", "ok", f"the workspace {workspace} in {ml.workspaces.get(workspace).location} answers")
    remedy = "Look at the quota of its family in the portal."
    yield Finding("GPUs", "note", f"the quota of {config.gpu.about} is not asked for", remedy)


def _ask_modal(component: ComponentResponse, config: StackConfig) -> Iterator[Finding]:
    from modal.config import config as modal_config

    found = component.configuration
    if not (found.get("token_id") or modal_config.get("token_id")):
        yield Finding("platform", "problem", "there is no token of Modal", "Run `modal token new`.")
        return
    yield Finding("platform", "ok", "a token of Modal is there; it has no GPU quota to ask for")


def _ask_ssh(component: ComponentResponse, config: StackConfig) -> Iterator[Finding]:
    import socket

    host, port = component.configuration["hostname"], int(component.configuration.get("port", 22))
    with socket.create_connection((host, port), timeout=SECONDS):
        yield Finding("platform", "ok", f"{host} listens on port {port}")
    yield Finding("GPUs", "note", "its GPUs and its Docker are not asked for", f"Try `ssh {host} nvidia-smi`.")


_Ask = Callable[[ComponentResponse, StackConfig], Iterator[Finding]]
_REACH: dict[str, _Ask] = {
    "azureml": _ask_azureml,
    "kubernetes": _ask_kubernetes,
    "modal": _ask_modal,
    "sagemaker": _ask_sagemaker,
    "ssh": _ask_ssh,
    "vertex": _ask_vertex,
}
_COUNT_GPUS: dict[str, _Ask] = {"kubernetes": _count_in_kubernetes, "sagemaker": _count_in_sagemaker}
