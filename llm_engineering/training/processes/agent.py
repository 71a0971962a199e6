"""torchrun, with one thing more: it says on the line to the parent what ended a worker.

That is the error in torchrun's error file, which ``record`` has written in the worker, or the signal that killed it.

``python -m llm_engineering.training.processes.agent ADDRESS ARGUMENTS_OF_TORCHRUN``
"""

import sys

from llm_engineering.training.processes.link import Died, Failed, Link

SENT_BY_TORCHRUN = "SIGTERM"
"""The signal by which torchrun ends the workers that are left."""


def main() -> None:
    """Run the workers to their end.

    Raises:
        SystemExit: One of them failed.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    link = Link(sys.argv[1])
    try:
        run.run(run.parse_args(sys.argv[2:]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        for rank, failure in sorted(error.failures.items(), key=lambda item: item[1].timestamp):
            if failure.exitcode < 0 and failure.signal_name() != SENT_BY_TORCHRUN:
                link.send(Died(rank=rank, signal=failure.signal_name()))
            elif isinstance(recorded := failure.error_file_data.get("message"), dict):
                kind, _, text = recorded["message"].partition(": ")
                link.send(Failed(rank=rank, error=kind, text=text))
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
