"""One of the processes that train together: it does what the in-process path does, and the first one reports.

``python -m llm_engineering.training.processes.worker TASK RESULT ADDRESS``, started by torchrun.
"""

import logging
import os
import pkgutil
import sys
from dataclasses import replace
from pathlib import Path

from llm_engineering import progress
from llm_engineering.config.tracking import NoTracking
from llm_engineering.training.processes.link import Link, LogToLink, Told
from llm_engineering.training.processes.task import Result, Task, read_task


def main() -> None:
    """Train, and write the result where this is the first process."""
    from torch.distributed.elastic.multiprocessing.errors import record

    task, result, address = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    record(_work)(read_task(task), result, Link(address), int(os.environ["RANK"]))


def _work(task: Task, result: Path, link: Link, rank: int) -> None:
    import torch

    if rank == 0:
        _pass_on(link)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    found = _train(task if rank == 0 else _silent(task))
    if rank == 0:
        result.write_text(found.model_dump_json(), encoding="utf-8")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _pass_on(link: Link) -> None:
    """Hand log and progress of the first process to the parent: the others do the same, and would say it again."""
    logging.basicConfig(level=logging.INFO, handlers=[LogToLink(link)], force=True)
    progress.listen(lambda found: link.send(Told(progress=found)))


def _silent(task: Task) -> Task:
    """Return the task of a process that talks to no tracker."""
    return replace(task, inputs=replace(task.inputs, tracking=NoTracking()))


def _train(task: Task) -> Result:
    checkpoint, report = pkgutil.resolve_name(task.train)(task.config, task.inputs)
    return Result(checkpoint=checkpoint, report=report)


if __name__ == "__main__":
    main()
