"""Mistakes in ZenML: each is still there, and is put right."""

import subprocess
import sys

import pytest

from pipelines.stacks.rehearsal import REPOSITORY

pytestmark = pytest.mark.slow

SESSION = """
import os, sys
from datetime import datetime
from uuid import uuid4
from zenml.enums import StackComponentType
from zenml.integrations.aws.flavors.sagemaker_step_operator_flavor import SagemakerStepOperatorConfig
from zenml.integrations.aws.step_operators import SagemakerStepOperator
from pipelines.stacks.workarounds import work_around

work_around(sys.argv[1:])
operator = SagemakerStepOperator(
    name="one", id=uuid4(), flavor="sagemaker", type=StackComponentType.STEP_OPERATOR, user=None,
    created=datetime.now(), updated=datetime.now(),
    config=SagemakerStepOperatorConfig(role="arn:aws:iam::123456789012:role/one", bucket="bucket"),
)
assert operator.sagemaker_session.boto_region_name == "us-east-1"
"""
"""Asks the step operator for its session; the arguments are the flavours that are worked around."""


def ask_for_session(*flavors: str) -> str:
    """Return what went wrong; nothing, where all went well."""
    pytest.importorskip("sagemaker", reason="needs the extra rehearsal: make stacks-env")
    variables = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "one", "AWS_SECRET_ACCESS_KEY": "two"}
    command = [sys.executable, "-c", SESSION, *flavors]
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=False)
    return done.stderr.splitlines()[-1] if done.returncode else ""


@pytest.mark.xfail(strict=True, reason="ZenML 0.98.0; once it passes, _give_sagemaker_step_operator_a_session goes")
def test_zenml_gives_its_sagemaker_step_operator_a_session() -> None:
    assert ask_for_session() == ""


def test_the_session_is_missing_for_the_reason_that_is_worked_around() -> None:
    assert ask_for_session() == ("AttributeError: 'SagemakerStepOperator' object has no attribute '_sagemaker_session'")


def test_the_sagemaker_step_operator_has_a_session_where_it_is_worked_around() -> None:
    assert ask_for_session("sagemaker") == ""
