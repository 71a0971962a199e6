"""Ask torch what it can do here, and print it as JSON; run in a process of its own, which a broken torch may kill."""

import json
import sys
from importlib.util import find_spec
from typing import Any


def probe() -> dict[str, Any]:
    """Return what torch says of itself and of the GPUs."""
    import torch

    gpus = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(i)
        gpus.append(
            {
                "name": torch.cuda.get_device_name(i),
                "free": free,
                "total": total,
                "capability": list(torch.cuda.get_device_capability(i)),
                "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
            }
        )
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "packages": [name for name in ("flash_attn", "bitsandbytes", "liger_kernel", "unsloth") if find_spec(name)],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe()))
