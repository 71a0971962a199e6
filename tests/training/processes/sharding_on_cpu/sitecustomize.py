"""Python imports this at its start: it lets accelerate shard on a CPU, which it does on GPUs alone."""

import accelerate.state
from accelerate.utils import DistributedType

_init = accelerate.state.AcceleratorState.__init__


def _with_cpus_as_gpus(self, *args, **kwargs):
    shared = accelerate.state.PartialState._shared_state
    if shared.get("distributed_type") == DistributedType.MULTI_CPU:
        shared["distributed_type"] = DistributedType.MULTI_GPU
    _init(self, *args, **kwargs)


accelerate.state.AcceleratorState.__init__ = _with_cpus_as_gpus
