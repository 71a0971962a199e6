"""torchrun, with one thing more: it says on the line to the parent which worker was killed, and by what signal.

``python -m llm_engineering.training.processes.agent ADDRESS ARGUMENTS_OF_TORCHRUN``
"""

import sys

from llm_engineering.training.processes.link import Died, Link

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
        for rank, failure in error.failures.items():
            if failure.exitcode < 0 and failure.signal_name() != SENT_BY_TORCHRUN:
                link.send(Died(rank=rank, signal=failure.signal_name()))
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
