"""Whether an error says that the memory was too small."""

import torch

_WORDS = ("can't allocate memory", "out of memory", "not enough memory", "ALLOC_FAILED")  # CPU, CUDA, Windows


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had too little memory for what was asked."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(part in str(error) for part in _WORDS)
