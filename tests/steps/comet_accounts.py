"""What a store of its own knows of Comet's key, for ``test_comet_account.py``: run in a process of its own."""

import json
import os
import sys
from pathlib import Path

from zenml.client import Client
from zenml.enums import StackComponentType

from llm_engineering.config.tracking import CometTracking, NoTracking, TrackingConfig
from llm_engineering.errors import ConfigError
from pipelines.store import open_store
from steps.runtime.tracking import comet_account

found: dict[str, list[str | None] | str] = {}


def ask(name: str, config: TrackingConfig) -> None:
    try:
        account = comet_account(config)
    except ConfigError as error:
        found[name] = str(error)
    else:
        found[name] = [account.api_key, account.workspace, account.project]


open_store()
client = Client()
os.environ.pop("COMET_API_KEY", None)
client.create_secret("comet", {"api_key": "of-the-secret"})
client.create_secret("empty", {"key": "misnamed"})
ask("nothing", CometTracking())
ask("secret", CometTracking(secret="comet"))
ask("missing", CometTracking(secret="komet"))
ask("misnamed", CometTracking(secret="empty"))

settings = {"api_key": "{{comet.api_key}}", "workspace": "theirs", "project_name": "project"}
client.create_stack_component("comet", "comet", StackComponentType.EXPERIMENT_TRACKER, settings)
parts = {kind: components[0].name for kind, components in client.active_stack_model.components.items()}
client.create_stack("tracked", {**parts, StackComponentType.EXPERIMENT_TRACKER: "comet"})
client.activate_stack("tracked")
ask("stack", CometTracking())
ask("stack_off", NoTracking())
client.delete_secret("comet")
ask("stack_without_secret", CometTracking())
os.environ["COMET_API_KEY"] = "of-the-user"
ask("environment", CometTracking(secret="komet"))
found["environment_after"] = os.environ["COMET_API_KEY"]
Path(sys.argv[1]).write_text(json.dumps(found))
