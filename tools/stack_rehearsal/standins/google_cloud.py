"""Google Cloud around Vertex AI, on loopback: a bucket, credentials of nobody, and the hosts that clients name."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tools.stack_rehearsal.standins.internet import Internet
from tools.stack_rehearsal.standins.loopback import HOST, listening_socket, serving

PROJECT = "emulation"
PROJECT_NUMBER = "1"
ACCOUNT = f"emulation@{PROJECT}.iam.gserviceaccount.com"
TOKEN_HOST = "oauth2.googleapis.com"
_TOKEN = {"access_token": "of-nobody", "expires_in": 3600, "token_type": "Bearer"}


@dataclass(frozen=True)
class GoogleCloud:
    """What an emulation reaches of Google Cloud."""

    internet: Internet
    bucket: str
    """An empty bucket's address, ``gs://…``."""
    key: Path
    """The key of a service account that nobody knows."""
    storage: str
    metadata: str

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs on the submitter's machine."""
        return {
            **self.internet.environment,
            "STORAGE_EMULATOR_HOST": self.storage,
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.key),
        }

    @property
    def job_environment(self) -> dict[str, str]:
        """What leads a job to Google. As on Vertex AI it has no key, but asks the metadata server who it is."""
        # by the second, clients find out whether they are in Google Cloud
        asked = dict.fromkeys(("GCE_METADATA_HOST", "GCE_METADATA_IP"), self.metadata)
        return {**self.internet.environment, **asked, "STORAGE_EMULATOR_HOST": self.storage}

    @property
    def values(self) -> dict[str, str]:
        """What stands for the values of a stack."""
        registry = f"europe-docker.pkg.dev/{PROJECT}/images"
        return {"project": PROJECT, "bucket": self.bucket.removeprefix("gs://"), "registry": registry}

    @property
    def secrets(self) -> dict[str, str]:
        """What must stand in no request: a line of the key, since a line's end is written in many ways."""
        return {"the key of the service account": json.loads(self.key.read_text())["private_key"].splitlines()[1]}

    def latest(self, prefix: str) -> BinaryIO | None:
        """Return the content of what was stored last under a prefix."""
        from gcsfs import GCSFileSystem

        system = GCSFileSystem(endpoint_url=self.storage, token="anon", use_listings_cache=False)
        found = system.find(f"{self.bucket}/{prefix}", detail=True)
        return BytesIO(system.cat(max(found, key=lambda name: found[name]["updated"]))) if found else None


@contextmanager
def google_cloud_standin(folder: Path) -> Iterator[GoogleCloud]:
    """Serve a bucket and credentials until the block ends.

    Args:
        folder: Takes the objects, the key and the certificates.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as opened:
        internet = opened.enter_context(Internet(folder))
        identity = opened.enter_context(serving(_identity()))
        storage = opened.enter_context(_storage(folder / "objects"))
        internet.lead(TOKEN_HOST, int(identity.rpartition(":")[2]))
        yield GoogleCloud(
            internet, "gs://emulation", _write_key(folder / "key.json"), storage, identity.removeprefix("http://")
        )


def _identity() -> Any:
    """Return an application that gives tokens, to holders of a key and to jobs that ask the metadata server."""
    from fastapi import FastAPI, Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response

    application = FastAPI(openapi_url=None)
    account = {"aliases": ["default"], "email": ACCOUNT, "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}
    told: dict[str, Response] = {
        "": PlainTextResponse("computeMetadata/"),
        "project/project-id": PlainTextResponse(PROJECT),
        "universe/universe-domain": PlainTextResponse("googleapis.com"),
        "instance/service-accounts/default/": JSONResponse(account),
        f"instance/service-accounts/{ACCOUNT}/": JSONResponse(account),
        "instance/service-accounts/default/token": JSONResponse(_TOKEN),
        f"instance/service-accounts/{ACCOUNT}/token": JSONResponse(_TOKEN),
    }

    async def token(_: Request) -> Response:
        return JSONResponse(_TOKEN)

    async def metadata(request: Request) -> Response:
        path = request.url.path.removeprefix("/computeMetadata/v1").lstrip("/")
        answer = told.get(path, PlainTextResponse("", 404))
        answer.headers["Metadata-Flavor"] = "Google"  # by this header a client knows the server
        return answer

    application.add_route("/token", token, methods=["POST"])
    application.add_route("/{path:path}", metadata, methods=["GET"])
    return application


@contextmanager
def _storage(folder: Path) -> Iterator[str]:
    """Serve Cloud Storage with one bucket, and give its address."""
    from gcp_storage_emulator.server import create_server

    with listening_socket() as chosen:  # the emulator wants to be told a port, and says of 0 not which one it took
        port = chosen.getsockname()[1]
    number = int(PROJECT_NUMBER)
    server = create_server(
        HOST, port, in_memory=False, data_dir=str(folder), default_bucket="emulation", project_number=number
    )
    server.start()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        server.stop()


def _write_key(path: Path) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    content = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "emulation",
        "private_key": pem,
        "client_email": ACCOUNT,
        "client_id": "1",
        "token_uri": f"https://{TOKEN_HOST}/token",
    }
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        json.dump(content, file)
    return path
