"""Whether an error says that the memory was too small. Light: a failure before anything was loaded asks, too."""

_WORDS = ("can't allocate memory", "out of memory", "not enough memory", "alloc_failed")  # CPU, CUDA, Windows
_KINDS = {"MemoryError", "OutOfMemoryError"}  # Python's and torch's


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had too little memory for what was asked."""
    if not _KINDS.isdisjoint(kind.__name__ for kind in type(error).__mro__):
        return True
    return any(part in str(error).lower() for part in _WORDS)
