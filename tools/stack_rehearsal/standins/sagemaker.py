"""SageMaker on loopback: moto keeps the books, and what is submitted runs on this machine.

moto accepts pipelines and training jobs, and says of a job that it is completed when it has only been created. So a
server in front of it starts the container's command as a process, and answers questions about the state with the truth.
Requests are held against the limits of the real API (``aws_shapes``), which moto does not know.

What is played: training jobs, processing jobs, and pipelines made of them. Steps of a pipeline run one at a time, in
the order of their dependencies. Not played: roles and quotas, input and output channels, network settings, the pulling
of the image.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from pipelines.stacks.settings import SAGEMAKER_SDK
from tools.stack_rehearsal.standins.aws_shapes import faults_of, sagemaker_model
from tools.stack_rehearsal.standins.jobs import Job, Machine
from tools.stack_rehearsal.standins.loopback import Recording, serving
from tools.stack_rehearsal.standins.posted import Limits, Posted
from tools.stack_rehearsal.standins.s3 import ACCOUNT, AWS, REGION, client_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

Members = dict[str, Any]
"""The members of a request or an answer, as AWS's JSON protocol writes them."""

_CREATIONS = {"Training": "CreateTrainingJob", "Processing": "CreateProcessingJob"}
"""By which request SageMaker makes the job of a step, by the type of the step."""
_NAMED_LATER = {
    "CreateTrainingJob": frozenset({"TrainingJobName"}),
    "CreateProcessingJob": frozenset({"ProcessingJobName"}),
}
"""What SageMaker itself adds to the request that a step of a pipeline holds."""
_SECONDS_OF_MOTO = 120.0
"""At the first request moto imports all of its SageMaker, which takes seconds."""
_READS = ("Describe", "List", "Search")


@dataclass
class Task:
    """One job of SageMaker's: the processes that have run for it, and how it stands."""

    name: str
    operation: str
    request: Members
    status: str = "InProgress"
    reason: str = ""
    jobs: list[Job] = field(default_factory=list)
    """One, and one more each time that the machine was taken away and given back."""
    taken_away: bool = False
    stopped: bool = False


@dataclass
class Execution:
    """One execution of a pipeline."""

    arn: str
    definition: Members
    status: str = "Executing"
    reason: str = ""
    tasks: dict[str, Task] = field(default_factory=dict)
    """By the name of the step."""
    ended: Event = field(default_factory=Event)


class SageMaker:
    """Answers for SageMaker, and plays it."""

    def __init__(self, aws: AWS, machine: Machine, recording: Recording) -> None:
        """Take what stands in for the account, and the machine that jobs run on."""
        self.aws = aws
        self.url = ""
        self.machine = machine
        self.recording = recording
        self.executions: dict[str, Execution] = {}
        self.tasks: dict[str, Task] = {}
        self._threads: list[Thread] = []
        self._closing = False
        self._lock = Lock()

    @property
    def environment(self) -> dict[str, str]:
        """By which variables botocore finds it, and the SageMaker SDK keeps to it."""
        return {
            "AWS_ENDPOINT_URL_SAGEMAKER": self.url,
            "SAGEMAKER_USER_CONFIG_OVERRIDE": str(SAGEMAKER_SDK),
            "SAGEMAKER_SUPPRESS_V2_WARNING": "1",
        }

    @property
    def values(self) -> dict[str, str]:
        """What stands for the values of a stack."""
        return {"role": f"arn:aws:iam::{ACCOUNT}:role/emulation"}

    @property
    def limits(self) -> Limits:
        """What SageMaker allows of a training job's environment."""
        variables = sagemaker_model().shape_for("TrainingEnvironmentMap")
        return Limits(variables.metadata["max"], variables.value.metadata["max"])

    def posted(self) -> list[Posted]:
        """Return what was asked for: the steps of pipelines, and jobs of their own."""
        steps = [step for execution in self.executions.values() for step in execution.definition["Steps"]]
        in_pipelines = {task.name for execution in self.executions.values() for task in execution.tasks.values()}
        return [
            *(
                _posted(step["Name"], _CREATIONS[step["Type"]], step["Arguments"], step.get("DependsOn", []))
                for step in steps
            ),
            *(
                _posted(task.name, task.operation, task.request, None)
                for task in self.tasks.values()
                if task.name not in in_pipelines
            ),
        ]

    def finish(self) -> None:
        """Wait until no job runs, and no pipeline."""
        while any(thread.is_alive() for thread in self._threads):
            for thread in list(self._threads):  # a job may ask for others
                thread.join()

    def answer(self, operation: str, members: Members, headers: Mapping[str, str]) -> tuple[int, Members]:
        """Answer a request: refuse it, or have moto answer and do what it asks for.

        Args:
            operation: ``CreateTrainingJob`` and the like.
            members: What the request holds.
            headers: Its headers. moto reads the region and the account from the signature.
        """
        if f"Credential={self.aws.access_key}/" not in headers.get("authorization", ""):
            return 403, _fault("UnrecognizedClientException", "The security token included in the request is invalid.")
        if not operation.startswith(_READS):
            self.recording.add(operation, members)
        if faults := self._faults(operation, members):
            return 400, _fault("ValidationException", " ".join(faults))
        if operation.startswith("Stop"):  # moto knows none of them
            return self._stop(operation, members)
        code, answer = self._ask_moto(operation, members, headers)
        if code == 200:
            self._act(operation, members, answer)
        return code, answer

    def _faults(self, operation: str, members: Members) -> list[str]:
        faults = faults_of(operation, members)
        if operation == "CreatePipeline" and not faults:
            faults = definition_faults(self._definition(members))
        return faults

    def _definition(self, members: Members) -> Members:
        """Return what a pipeline is made of: SageMaker's SDK puts a long definition into the bucket."""
        if (place := members.get("PipelineDefinitionS3Location")) is None:
            text = members["PipelineDefinition"]
        else:
            found = client_of("s3", self.aws).get_object(Bucket=place["Bucket"], Key=place["ObjectKey"])
            text = found["Body"].read()
        definition: Members = json.loads(text)
        return definition

    def _ask_moto(self, operation: str, members: Members, headers: Mapping[str, str]) -> tuple[int, Members]:
        import httpx

        kept = {name: value for name, value in headers.items() if name not in ("host", "content-length", "connection")}
        answer = httpx.post(self.aws.url, content=json.dumps(members), headers=kept, timeout=_SECONDS_OF_MOTO)
        if answer.content and "json" not in answer.headers["content-type"]:  # a page that says that moto lacks it
            return 501, _fault("NotImplemented", f"{operation} is not played here.")
        return answer.status_code, answer.json() if answer.content else {}

    def _act(self, operation: str, members: Members, answer: Members) -> None:
        match operation:
            case "CreateTrainingJob" | "CreateProcessingJob":
                name = members["TrainingJobName" if operation == "CreateTrainingJob" else "ProcessingJobName"]
                self._in_background(self._play, self._new_task(name, operation, members))
            case "DescribeTrainingJob":
                _tell_training(self.tasks[members["TrainingJobName"]], answer)
            case "DescribeProcessingJob":
                _tell_processing(self.tasks[members["ProcessingJobName"]], answer)
            case "StartPipelineExecution":
                self._start_execution(members["PipelineName"], answer["PipelineExecutionArn"])
            case "DescribePipelineExecution":
                execution = self.executions[members["PipelineExecutionArn"]]
                answer["PipelineExecutionStatus"] = execution.status
                answer.update({"FailureReason": execution.reason} if execution.reason else {})

    def take_away(self, name: str) -> None:
        """End a job as the loss of its spot instance does: without notice."""
        with self._lock:
            task = self.tasks[name]
            task.taken_away = True
            task.jobs[-1].kill()

    def _new_task(self, name: str, operation: str, request: Members) -> Task:
        task = Task(name, operation, request)
        with self._lock:
            self.tasks[name] = task
        return task

    def _play(self, task: Task) -> None:
        """Run a job to its end. One on spot instances starts again when its machine was taken away."""
        code = self._run(task)
        while task.taken_away and task.request.get("EnableManagedSpotTraining") and not self._closing:
            task.taken_away = False
            code = self._run(task)
        if task.stopped:
            task.status = "Stopped"
        elif code == 0:
            task.status = "Completed"
        else:
            task.reason = f"AlgorithmError: , exit code: {code}"
            task.status = "Failed"

    def _run(self, task: Task) -> int | None:
        """Run a job's command, and return its exit code; None where it was stopped before."""
        kind = "training" if task.operation == "CreateTrainingJob" else "processing"
        given = {
            **self.environment,
            f"{kind.upper()}_JOB_NAME": task.name,
            f"{kind.upper()}_JOB_ARN": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind}-job/{task.name}",
        }
        again = f"-{len(task.jobs) + 1}" if task.jobs else ""
        environment = {**given, **task.request.get("Environment", {})}
        with self._lock:  # whoever looks for the job's process finds it as soon as it can have done something
            if task.stopped:
                return None
            job = self.machine.start(f"{task.name}{again}", command_of(task.operation, task.request), environment)
            task.jobs.append(job)
        return job.wait()

    def _stop(self, operation: str, members: Members) -> tuple[int, Members]:
        """Stop a job, or all of an execution's."""
        name = next(value for key, value in members.items() if key.endswith(("JobName", "ExecutionArn")))
        if name in self.executions:
            tasks, answer = list(self.executions[name].tasks.values()), {"PipelineExecutionArn": name}
        elif name in self.tasks:
            tasks, answer = [self.tasks[name]], {}
        else:
            return 400, _fault("ResourceNotFound", f"{operation}: there is no {name}.")
        with self._lock:
            for task in tasks:
                task.stopped = True
            jobs = [job for task in tasks for job in task.jobs]
        for job in jobs:
            job.stop()
        return 200, answer

    def _start_execution(self, pipeline: str, arn: str) -> None:
        described = client_of("sagemaker", self.aws).describe_pipeline(PipelineName=pipeline)
        execution = Execution(arn, json.loads(described["PipelineDefinition"]))
        self.executions[arn] = execution
        self._in_background(self._execute, execution)

    def _execute(self, execution: Execution) -> None:
        """Run the steps one after the other; the first that fails ends the execution."""
        steps = {step["Name"]: step for step in execution.definition["Steps"]}
        graph = {name: step.get("DependsOn", []) for name, step in steps.items()}
        execution_id = execution.arn.rsplit("/", 1)[-1]
        for name in TopologicalSorter(graph).static_order():
            operation = _CREATIONS[steps[name]["Type"]]
            request = with_variables(steps[name]["Arguments"], {"Execution.PipelineExecutionArn": execution.arn})
            task = self._new_task(f"pipelines-{execution_id}-{name}"[:63], operation, request)
            execution.tasks[name] = task
            self._play(task)
            if task.status != "Completed":
                execution.reason = f"Step failure: {name}: {task.reason}"
                execution.status = "Stopped" if task.stopped else "Failed"
                break
        else:
            execution.status = "Succeeded"
        execution.ended.set()

    def _in_background(self, function: Any, argument: object) -> None:
        thread = Thread(target=function, args=(argument,), name="sagemaker")
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """End what runs."""
        self._closing = True
        while any(thread.is_alive() for thread in self._threads):
            self.machine.stop()
            self._threads[-1].join(0.1)


def command_of(operation: str, request: Members) -> list[str]:
    """Return the command of a job's container."""
    part = request["AlgorithmSpecification" if operation == "CreateTrainingJob" else "AppSpecification"]
    return [*part.get("ContainerEntrypoint", []), *part.get("ContainerArguments", [])]


def _posted(name: str, operation: str, request: Members, after: Iterable[str] | None) -> Posted:
    if operation == "CreateTrainingJob":
        image, resources = request["AlgorithmSpecification"]["TrainingImage"], request["ResourceConfig"]
    else:
        image, resources = request["AppSpecification"]["ImageUri"], request["ProcessingResources"]["ClusterConfig"]
    return Posted(
        name=name,
        image=image,
        command=command_of(operation, request),
        environment={name: str(value) for name, value in request.get("Environment", {}).items()},
        machine=resources["InstanceType"],
        after=None if after is None else frozenset(after),
    )


def definition_faults(definition: Members) -> list[str]:
    """Return what SageMaker would refuse in the definition of a pipeline: a sentence for each fault."""
    step_name = sagemaker_model().shape_for("StepName").metadata
    names = [step["Name"] for step in definition["Steps"]]
    faults = [f"There are several steps {name}." for name in sorted({name for name in names if names.count(name) > 1})]
    for step in definition["Steps"]:
        name, operation = step["Name"], _CREATIONS.get(step["Type"])
        if len(name) > step_name["max"]:
            faults.append(f"The name of step {name} has more than {step_name['max']} characters.")
        faults += [
            f"{name} depends on {other}, which is no step." for other in step.get("DependsOn", []) if other not in names
        ]
        if operation is None:
            faults.append(f"{name} is a step of type {step['Type']}, which is not played here.")
            continue
        request = with_variables(step["Arguments"], {"Execution.PipelineExecutionArn": "arn"})
        faults += [f"{name}: {fault}" for fault in faults_of(operation, request, without=_NAMED_LATER[operation])]
    return faults


def with_variables(value: Any, variables: Mapping[str, str]) -> Any:
    """Return a part of a pipeline's definition with its variables (``{"Get": ...}``) replaced by their values."""
    if isinstance(value, dict):
        if value.keys() == {"Get"}:
            return variables[value["Get"]]
        return {name: with_variables(item, variables) for name, item in value.items()}
    if isinstance(value, list):
        return [with_variables(item, variables) for item in value]
    return value


def _tell_training(task: Task, answer: Members) -> None:
    answer["TrainingJobStatus"] = answer["SecondaryStatus"] = task.status
    if task.status == "InProgress":
        answer["SecondaryStatus"] = "Training"
        answer.pop("TrainingEndTime", None)
    answer.update({"FailureReason": task.reason} if task.reason else {})


def _tell_processing(task: Task, answer: Members) -> None:
    answer["ProcessingJobStatus"] = task.status
    answer.update({"FailureReason": task.reason, "ExitMessage": task.reason} if task.reason else {})


def _fault(kind: str, message: str) -> Members:
    return {"__type": kind, "message": message}


@contextmanager
def sagemaker_standin(aws: AWS, machine: Machine, recording: Recording) -> Iterator[SageMaker]:
    """Serve SageMaker until the block ends."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    sagemaker = SageMaker(aws, machine, recording)

    async def answer(request: "Request") -> "Response":
        operation = request.headers["x-amz-target"].rsplit(".", 1)[-1]
        members = json.loads(await request.body() or b"{}")
        code, said = await run_in_threadpool(sagemaker.answer, operation, members, dict(request.headers))
        return JSONResponse(said, code, media_type="application/x-amz-json-1.1")

    with serving(Starlette(routes=[Route("/", answer, methods=["POST"])])) as sagemaker.url:
        try:
            yield sagemaker
        finally:
            sagemaker.close()
