"""Where a stage is trained: in this process, or in several that torchrun starts, with the same result."""

import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from llm_engineering import progress
from llm_engineering.config.hardware import TorchrunHardware
from llm_engineering.config.stage import StageConfig
from llm_engineering.errors import PipelineError, TrainingError, error_named
from llm_engineering.models.hardware import require_devices, usable_cores
from llm_engineering.reports.folders import Checkpoint, StageName
from llm_engineering.reports.training import TrainingReport
from llm_engineering.training.arguments import require_shares
from llm_engineering.training.inputs import StageInputs
from llm_engineering.training.processes.link import Died, Ended, Failed, Logged, Message, Told, listening_at
from llm_engineering.training.processes.task import FOLDER, Result, Task, write_task
from llm_engineering.training.schedule import shortened

_log = logging.getLogger(__name__)
Config = TypeVar("Config", bound=StageConfig)
Trained = tuple[Checkpoint, TrainingReport]
SECONDS_TO_END = 10.0
"""How long torchrun may take to end once its workers have lost their parent."""
SHOWN_OUTPUT = 2000
"""Characters of the workers' output that are logged where nothing else says what went wrong."""


def launch(
    stage: StageName,
    train: Callable[[Config, StageInputs], Trained],
    config: Config,
    inputs: StageInputs,
    before: Callable[[Config, StageInputs], StageInputs] = lambda config, inputs: inputs,
) -> Trained:
    """Train in this process, or in as many as are configured, by a schedule for the rows that came.

    Args:
        stage: Its name.
        train: Trains it in one process: a function that other processes can import.
        config: Its configuration.
        inputs: Its inputs.
        before: Returns its inputs with what one process makes before several train.
    """
    config, notes = shortened(stage, config, inputs.rows)
    for note in notes:
        _log.warning(note)
    if isinstance(inputs.hardware, TorchrunHardware):
        require_devices(inputs.hardware)
        require_shares(stage, config, inputs.hardware)
        task = Task(stage, f"{train.__module__}:{train.__name__}", config, before(config, inputs))
        checkpoint, report = _train(task, inputs.hardware)
    else:
        checkpoint, report = train(config, inputs)
    return checkpoint, report.model_copy(update={"notes": [*notes, *report.notes]})


def _train(task: Task, hardware: TorchrunHardware) -> Trained:
    """Train in worker processes and return what the first one found.

    Raises:
        PipelineError: What a worker raised; or one of them was killed, or failed in a way that nobody foresaw.
    """
    folder = task.inputs.work_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    result, output = folder / "result.json", folder / "output.log"
    result.unlink(missing_ok=True)
    secrets = write_task(task, folder / "task.json")
    _log.info("%s trains in %d processes (%s).", task.stage.upper(), hardware.processes, hardware.strategy)
    # the path of a socket is short, and nobody else may enter the folder
    with tempfile.TemporaryDirectory(prefix="llm-processes-") as private:
        address = Path(private) / "line"
        arguments = [str(folder / "task.json"), str(result), str(address)]
        with listening_at(address) as messages, _started(hardware, arguments, secrets, output, messages):
            code, failures = _follow(messages)
    if code or failures or not result.is_file():
        raise _error(task, failures, output)
    found = Result.model_validate_json(result.read_bytes())
    return found.checkpoint, found.report


@contextmanager
def _started(
    hardware: TorchrunHardware,
    arguments: list[str],
    secrets: Mapping[str, str],
    output: Path,
    messages: "queue.Queue[Message]",
) -> Iterator[None]:
    """Run the workers for the time of the block; what is left of them at its end is killed."""
    package = "llm_engineering.training.processes"
    address = arguments[-1]
    command = [sys.executable, "-m", f"{package}.agent", address, "--standalone"]
    command += ["--nproc-per-node", str(hardware.processes), "-m", f"{package}.worker", *arguments]
    with output.open("wb") as written:
        # a session of its own: Ctrl-C is heard here alone, and ends them in the order that this block has
        process = subprocess.Popen(
            command,
            env=_environment(hardware, secrets),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    threading.Thread(target=lambda: messages.put(Ended(code=process.wait())), daemon=True).start()
    try:
        yield
    finally:
        _end(process)


def _environment(hardware: TorchrunHardware, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return what the workers see: this process's own, its way of finding modules, and a part of the cores each."""
    threads = max(1, usable_cores() // hardware.processes)
    shared = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**shared, **own, **secrets}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End torchrun, which ends its workers; those in the middle of something end when their line is cut."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _follow(messages: "queue.Queue[Message]") -> tuple[int, list[Failed | Died]]:
    """Pass on what the workers say until they have ended; return torchrun's exit code and what went wrong."""
    failures: list[Failed | Died] = []
    while True:
        message = messages.get()
        match message:
            case Told():
                progress.tell(message.progress)
            case Logged():
                _log_as(message)
            case Failed() | Died():
                failures.append(message)
            case Ended():
                return message.code, failures


def _log_as(message: Logged) -> None:
    logger = logging.getLogger(message.logger)
    if logger.isEnabledFor(message.level):
        logger.log(message.level, "%s", message.text)


def _error(task: Task, failures: list[Failed | Died], output: Path) -> PipelineError:
    """Return what is to be said of a failure: the first worker's own sentence, before what the others saw of it."""
    for failure in failures:
        if isinstance(failure, Failed) and (told := error_named(failure.error, failure.text)):
            return told
    stage, processes = task.stage.upper(), task.inputs.hardware.processes
    for failure in failures:
        if isinstance(failure, Died):
            hint = "; the system may have run out of memory" if failure.signal == "SIGKILL" else ""
            return TrainingError(
                f"{stage}: process {failure.rank} of {processes} was ended by {failure.signal}{hint}. Run again: "
                "training goes on from the last checkpoint."
            )
    written = output.read_text(encoding="utf-8", errors="replace")
    _log.error("The workers' output ends so:\n%s", written[-SHOWN_OUTPUT:])
    if failures and isinstance(failures[0], Failed):
        first = failures[0]
        what = f"process {first.rank} of {processes} failed with {first.error}: {first.text}"
        return TrainingError(f"{stage}: {what}. All that was printed is in {output}.")
    return TrainingError(
        f"{stage}: the {processes} processes ended without a result. What they printed is in {output}."
    )
