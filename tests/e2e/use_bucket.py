"""Make a stack of a bucket and the local orchestrator, once a server, and activate it for this client."""

import sys

from zenml.client import Client
from zenml.enums import StackComponentType

client = Client()
if not client.list_stacks(name="bucket").items:
    store = client.create_stack_component(
        "bucket", "s3", StackComponentType.ARTIFACT_STORE, {"path": f"s3://{sys.argv[1]}"}
    )
    client.create_stack(
        "bucket", {StackComponentType.ARTIFACT_STORE: store.id, StackComponentType.ORCHESTRATOR: "default"}
    )
client.activate_stack("bucket")
