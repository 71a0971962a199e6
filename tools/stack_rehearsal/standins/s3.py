"""S3 on loopback: moto, with one empty bucket. It is asked as AWS is, by the endpoint that the environment names."""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from threading import Thread
from typing import Any, BinaryIO

from tools.stack_rehearsal.standins.loopback import HOST

REGION = "us-east-1"
ACCOUNT = "123456789012"
"""The account that moto answers for."""


@dataclass(frozen=True)
class AWS:
    """What stands in for an account: where it listens, who may ask, and the bucket."""

    url: str
    access_key: str
    secret_key: str
    bucket: str

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs, and what a role gives to a job. botocore reads all of it, and s3fs by botocore."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    @property
    def job_environment(self) -> dict[str, str]:
        """The same: a job has its role's credentials by these variables."""
        return self.environment

    @property
    def values(self) -> dict[str, str]:
        """What stands for the values of a stack."""
        registry = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
        return {"region": REGION, "bucket": self.bucket, "registry": registry}

    @property
    def secrets(self) -> dict[str, str]:
        """What must stand in no request."""
        return {"the secret key of the account": self.secret_key}

    def latest(self, prefix: str) -> BinaryIO | None:
        """Return the content of what was stored last under a prefix."""
        s3 = client_of("s3", self)
        found = s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        if not found:
            return None
        latest = max(found, key=lambda each: each["LastModified"])
        return BytesIO(s3.get_object(Bucket=self.bucket, Key=latest["Key"])["Body"].read())


@contextmanager
def aws_standin() -> Iterator[AWS]:
    """Serve moto until the block ends. What one process stores, all of its stand-ins see: buckets have random names."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = make_server(HOST, 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    thread = Thread(target=server.serve_forever, name="moto")
    thread.start()
    aws = AWS(
        url=f"http://{HOST}:{server.server_port}",
        access_key=f"AKIA{secrets.token_hex(8).upper()}",
        secret_key=secrets.token_urlsafe(30),
        bucket=f"emulation-{secrets.token_hex(8)}",
    )
    try:
        client_of("s3", aws).create_bucket(Bucket=aws.bucket)
        yield aws
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def client_of(service: str, aws: AWS) -> Any:
    """Return a boto3 client of one of the stand-in's services."""
    import boto3

    return boto3.client(
        service,
        endpoint_url=aws.url,
        aws_access_key_id=aws.access_key,
        aws_secret_access_key=aws.secret_key,
        region_name=REGION,
    )
