"""What the API server of Kubernetes refuses in a manifest, as far as it can be said without a cluster.

Shapes come from the models of the installed client. Fields that they do not know are refused: a real server drops them
with a warning that the client does not show, and the pod runs without what was asked for.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

Manifest = dict[str, Any]
"""An object of the API, as its JSON writes it."""

MODELS = {
    "jobs": "V1Job",
    "pods": "V1Pod",
    "secrets": "V1Secret",
    "services": "V1Service",
    "configmaps": "V1ConfigMap",
    "serviceaccounts": "V1ServiceAccount",
    "rolebindings": "V1RoleBinding",
}
"""The model of what stands in a collection of the API."""

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_SCALARS: Mapping[str, type | tuple[type, ...]] = {
    "str": str,
    "bool": bool,
    "int": int,
    "float": (int, float),
    "datetime": str,
}
_LIST, _MAP = re.compile(r"list\[(.+)\]"), re.compile(r"dict\(str, (.+)\)")


def faults_of(collection: str, manifest: Manifest) -> list[str]:
    """Return what would be refused in a manifest: a sentence for each fault."""
    faults = [*_shape_faults(MODELS[collection], manifest, "")]
    if not faults:
        faults += _metadata_faults(manifest.get("metadata", {}), "metadata")
    if not faults and collection == "jobs":
        faults += _job_faults(manifest["spec"])
    return faults


def _shape_faults(kind: str, value: Any, where: str) -> Iterator[str]:
    """Say what is no field, and what is of another type."""
    from kubernetes.client import models

    if value is None or kind == "object":
        return
    if kind in _SCALARS:
        if not isinstance(value, _SCALARS[kind]) or (kind == "int" and isinstance(value, bool)):
            yield f"{where} is {value!r}, not of type {kind}."
        return
    if found := _LIST.fullmatch(kind):
        inside = [(found[1], item, f"{where}[{index}]") for index, item in enumerate(value)]
    elif found := _MAP.fullmatch(kind):
        inside = [(found[1], item, f"{where}.{name}") for name, item in value.items()]
    else:
        model = getattr(models, kind)
        types = {written: model.openapi_types[name] for name, written in model.attribute_map.items()}
        known = {name: item for name, item in value.items() if name in types}
        inside = [(types[name], item, f"{where}.{name}".lstrip(".")) for name, item in known.items()]
        for name in value.keys() - known.keys():
            yield f"{f'{where}.{name}'.lstrip('.')} is no field of {kind.removeprefix('V1')}."
    for part in inside:
        yield from _shape_faults(*part)


def _metadata_faults(metadata: Manifest, where: str) -> Iterator[str]:
    name = metadata.get("name")
    if name is not None and not _DNS_LABEL.fullmatch(name):
        yield f"{where}.name {name!r} is no DNS label (small letters, digits and -, at most 63)."
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_KEY.fullmatch(key):
            yield f"{where}.labels: {key!r} is no name of a label."
        if not _LABEL_VALUE.fullmatch(value):
            yield f"{where}.labels.{key} {value!r} is no value of a label (at most 63 characters)."


def _job_faults(spec: Manifest) -> Iterator[str]:
    pod, where = spec["template"].get("spec") or {}, "spec.template.spec"
    yield from _metadata_faults(spec["template"].get("metadata") or {}, "spec.template.metadata")
    if pod.get("restartPolicy") not in ("Never", "OnFailure"):
        yield f"{where}.restartPolicy of a job is Never or OnFailure, not {pod.get('restartPolicy')!r}."
    if spec.get("podFailurePolicy") and pod.get("restartPolicy") != "Never":
        yield "spec.podFailurePolicy needs the restartPolicy Never."
    if not pod.get("containers"):
        yield f"{where}.containers is empty."
    volumes = {volume["name"] for volume in pod.get("volumes") or ()}
    for index, container in enumerate(pod.get("containers") or ()):
        yield from _container_faults(container, f"{where}.containers[{index}]", volumes)


def _container_faults(container: Manifest, where: str, volumes: Iterable[str]) -> Iterator[str]:
    if not _DNS_LABEL.fullmatch(container.get("name") or ""):
        yield f"{where}.name {container.get('name')!r} is no DNS label."
    if not container.get("image"):
        yield f"{where}.image is missing."
    for variable in container.get("env") or ():
        if not _VARIABLE.fullmatch(variable.get("name") or ""):
            yield f"{where}.env: {variable.get('name')!r} is no name of a variable."
        if variable.get("value") and variable.get("valueFrom"):
            yield f"{where}.env.{variable['name']} has both a value and a valueFrom."
    for mount in container.get("volumeMounts") or ():
        if mount["name"] not in volumes:
            yield f"{where}.volumeMounts: there is no volume {mount['name']!r}."
    yield from _resource_faults(container.get("resources") or {}, f"{where}.resources")


def _resource_faults(resources: Manifest, where: str) -> Iterator[str]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    amounts: dict[tuple[str, str], Decimal] = {}
    for part, named in (("limits", limits), ("requests", requests)):
        for name, text in named.items():
            try:
                amounts[part, name] = quantity(text)
            except ValueError:
                yield f"{where}.{part}.{name} {text!r} is no quantity."
    for name in requests:
        asked, most = amounts.get(("requests", name)), amounts.get(("limits", name))
        if asked is not None and most is not None and asked > most:
            yield f"{where}: {name} requests {requests[name]}, more than its limit {limits[name]}."
        if "/" in name and asked != most:
            yield f"{where}: {name} is an extended resource, whose limit must be what is requested."


def quantity(text: str) -> Decimal:
    """Return an amount (``500m``, ``4Gi``) as a number.

    Raises:
        ValueError: It is none.
    """
    from kubernetes.utils import parse_quantity

    return Decimal(parse_quantity(text))
