"""Mistakes in ZenML that keep a stack from working, put right in one place until ZenML does it.

Each has a test that is expected to fail for as long as the mistake is there. Once it passes, the workaround goes.
"""

from collections.abc import Iterable


def work_around(step_operators: Iterable[str]) -> None:
    """Put right what a stack needs before something is submitted to it.

    Args:
        step_operators: The flavours of the stack's step operators.
    """
    if "sagemaker" in step_operators:
        _give_sagemaker_step_operator_a_session()


def _give_sagemaker_step_operator_a_session() -> None:
    """Let the session of the SageMaker step operator begin as None, as that of the orchestrator does.

    ZenML 0.98.0 makes the session when it is asked for and there is none, and fails with an AttributeError when it
    looks: nothing sets ``_sagemaker_session`` before, unless a service connector is linked.
    """
    from zenml.integrations.aws.step_operators import SagemakerStepOperator

    if not hasattr(SagemakerStepOperator, "_sagemaker_session"):
        SagemakerStepOperator._sagemaker_session = None
