"""What of a registered stack is as it has to be, asked before anything is paid for."""

import uuid
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.integrations.registry import integration_registry
from zenml.models import StackResponse

from llm_engineering.checkup.finding import Check, Finding
from llm_engineering.config.stacks import StackConfig, shipped_stacks
from llm_engineering.errors import ConfigError
from pipelines.stacks.platforms import examine_platform
from pipelines.stacks.settings import require_honest_gpus, require_image
from pipelines.store import server_of_store


def checks_of(name: str, stack: StackResponse, config: StackConfig) -> dict[str, Check]:
    """Return the checks of a registered stack, by the name of what they look at; none changes anything.

    The artifact store alone is written to: a file that is removed at once.
    """
    return {
        "server": _examine_server,
        "packages": partial(_examine_packages, config),
        "stack": partial(_examine_components, stack, config),
        "file": partial(_examine_file, name, config),
        "image": partial(_examine_image, name, config),
        "secrets": partial(_examine_secrets, config),
        "artifact store": partial(_examine_artifact_store, stack),
        "platform": partial(examine_platform, stack, config),
    }


def missing_integrations(config: StackConfig) -> list[str]:
    """Return the integrations whose packages are not installed, or in other versions than ZenML takes."""
    return [name for name in config.integrations if not integration_registry.is_installed(name)]


def require_integrations(name: str, config: StackConfig) -> None:
    """Refuse a stack whose packages are missing.

    Raises:
        ConfigError: They are.
    """
    if missing := missing_integrations(config):
        raise ConfigError(
            f"The stack {name} needs the packages of ZenML's integrations {', '.join(missing)}, which are not here. "
            f"{_install(config)}"
        )


def variables_of_secrets(config: StackConfig) -> dict[str, list[str] | None]:
    """Return the variables that each secret of the steps gives them; None where ZenML has no such secret."""
    found: dict[str, list[str] | None] = {}
    for name in config.secrets:
        try:
            found[name] = sorted(Client().get_secret(name).secret_values)
        except KeyError:
            found[name] = None
    return found


def require_secrets(name: str, config: StackConfig) -> None:
    """Refuse a stack whose secrets are missing.

    Raises:
        ConfigError: They are.
    """
    if missing := [secret for secret, variables in variables_of_secrets(config).items() if variables is None]:
        raise ConfigError(
            f"The stack {name} gives its steps the ZenML secrets {', '.join(missing)}, which are not there. Make each: "
            "`zenml secret create NAME --VARIABLE=VALUE`."
        )


def _install(config: StackConfig) -> str:
    if "gcp" in config.extras:
        return "Run `make vertex-env` and use .venv-vertex/bin/python: Google Cloud's packages go with older pins."
    return f"Install them: `pip install --constraint constraints.txt --editable '.[{','.join(config.extras)}]'`."


def _examine_server() -> Iterator[Finding]:
    url = server_of_store()
    if url is None:
        remedy = "docs/stacks.md says how to get one; `zenml login URL` connects to it."
        yield Finding("server", "problem", "this client is on a local store, which no remote step reaches", remedy)
        return
    found = Client().zen_store.get_store_info()
    here = version("zenml")
    if found.version != here:
        remedy = f"Install zenml=={found.version} here and in the image, or bring the server to {here}."
        yield Finding("server", "problem", f"{url} runs ZenML {found.version}, this client {here}", remedy)
    elif "127.0.0.1" in url or "localhost" in url:
        remedy = "Steps elsewhere cannot reach it; give it an address that they can."
        yield Finding("server", "note", f"{url} is an address of this machine alone", remedy)
    else:
        yield Finding("server", "ok", f"{url}, ZenML {here}")


def _examine_packages(config: StackConfig) -> Iterator[Finding]:
    if missing := missing_integrations(config):
        yield Finding("packages", "problem", f"missing: {', '.join(missing)}", _install(config))
    else:
        yield Finding("packages", "ok", f"integrations {', '.join(config.integrations)}")


def _examine_components(stack: StackResponse, config: StackConfig) -> Iterator[Finding]:
    """Compare what the stack has now with what it was registered with."""
    for kind, wanted in config.components.items():
        found = stack.components.get(StackComponentType(kind), [])
        flavor = found[0].flavor_name if found else "none"
        if flavor != wanted.flavor:
            remedy = f"`python tools/stacks.py register {stack.name}` puts it back."
            yield Finding("stack", "problem", f"its {kind} is of the flavor {flavor}, not {wanted.flavor}", remedy)
            return
    listed = ", ".join(f"{kind} {wanted.flavor}" for kind, wanted in config.components.items())
    yield Finding("stack", "ok", listed)


def _examine_file(name: str, config: StackConfig) -> Iterator[Finding]:
    """Say whether a shipped file has changed since: machines and settings are those of the registration."""
    from llm_engineering.config.stacks import read_stack
    from pipelines.stacks.registration import known_values

    if name not in shipped_stacks():
        return
    remedy = f"`python tools/stacks.py register {name}` takes it over."
    try:
        is_same = read_stack(name).shown(known_values(name)) == config
    except ConfigError as error:
        yield Finding("file", "problem", str(error), "Mend the file.")
        return
    text = f"configs/stacks/{name}.yaml"
    yield Finding("file", "ok", text) if is_same else Finding("file", "note", f"{text} has changed since", remedy)


def _examine_image(name: str, config: StackConfig) -> Iterator[Finding]:
    try:
        require_honest_gpus(name, config)
        require_image(name, config)
    except ConfigError as error:
        yield Finding("image", "problem", str(error))
        return
    yield Finding("image", "ok", f"{config.image or 'none: steps run where the orchestrator is'}")


def _examine_secrets(config: StackConfig) -> Iterator[Finding]:
    for name, variables in variables_of_secrets(config).items():
        if variables is None:
            remedy = f"Make it: `zenml secret create {name} --NAME=VALUE`."
            yield Finding("secrets", "problem", f"ZenML has no secret {name!r}", remedy)
        else:
            yield Finding("secrets", "ok", f"{name}: {', '.join(variables) or 'empty'}")


def _examine_artifact_store(stack: StackResponse) -> Iterator[Finding]:
    """Write a file into the store, read it, and remove it."""
    from zenml.artifact_stores import BaseArtifactStore

    component = stack.components[StackComponentType.ARTIFACT_STORE][0]
    try:
        store: Any = BaseArtifactStore.from_model(component)
        probe, text = f"{store.path}/llm-engineering-probe-{uuid.uuid4()}", "written by a check"
        with store.open(probe, "w") as file:
            file.write(text)
        with store.open(probe, "r") as file:
            read = file.read()
        store.remove(probe)
    except Exception as error:  # noqa: BLE001 - every platform raises its own
        first = next(iter(str(error).splitlines()), "")
        text = f"{component.configuration.get('path')} cannot be written: {type(error).__name__}: {first}"
        yield Finding("artifact store", "problem", text, "Mend the credentials, or what they may do there.")
        return
    assert read == text
    yield Finding("artifact store", "ok", f"{store.path} is written and read")
