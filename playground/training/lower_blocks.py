"""What the blocks below the first trained one give: the same at every step, so computed once an example.

A training that leaves a model's lower blocks as they are asks them for the same hidden states in every
epoch. They are kept here, and each step starts from them at the first trained block: with the top 12 of 30
blocks trained a step costs about two fifths. The loss and its gradient are the same
(tests/training/test_lower_blocks.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from playground.errors import InvalidParams
from playground.training.batches import Example, Row, log_probabilities, pack, shared_prefix
from playground.training.structure import blocks

MOST_BYTES = 1 << 30  # of hidden states; with more of them nothing is kept
TRIED = 2  # examples on which it is tried whether the short cut gives the same


class LowerBlocks:
    """Hidden states of examples at a network's first trained block.

    ``hidden`` has (tokens - 1, width) for each example: nothing follows the last token. ``count`` is the
    number of blocks below.
    """

    def __init__(self, network: nn.Module, count: int):
        name = blocks(network)[0].name.rsplit(".", 1)[0]
        self.network, self.count = network, count
        self.hidden: dict[Example, torch.Tensor] = {}
        place, _, self._attribute = name.rpartition(".")
        self._owner = network.get_submodule(place)
        self._all: nn.ModuleList = getattr(self._owner, self._attribute)
        self._upper = self._all[count:]

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Inside the block the network has its upper blocks alone, and takes hidden states as embeddings."""
        setattr(self._owner, self._attribute, self._upper)
        try:
            yield
        finally:
            setattr(self._owner, self._attribute, self._all)

    @torch.no_grad()
    def keep(self, examples: Sequence[Example], limit: int, dtype: torch.dtype) -> None:
        """Compute the hidden states of ``examples``, in packed rows of at most ``limit`` tokens."""
        prefix, rest = shared_prefix(examples), list(examples)
        device = next(self.network.parameters()).device
        for row in pack(examples, prefix, limit, device, dtype):
            states, at = self._states(row), prefix
            while at < len(states):
                example = rest.pop(0)
                end = at + len(example.ids) - 1 - prefix
                self.hidden[example] = torch.cat([states[:prefix], states[at:end]])
                at = end

    @torch.no_grad()
    def _states(self, row: Row) -> torch.Tensor:
        """What the first upper block is given, (tokens, width)."""
        found = []

        def note(_block: nn.Module, inputs: tuple, named: dict) -> None:
            found.append((inputs[0] if inputs else named["hidden_states"])[0])
            raise _Enough

        handle = self._upper[0].register_forward_pre_hook(note, with_kwargs=True, prepend=True)
        try:
            self.network(**row.inputs, use_cache=False)
        except _Enough:
            pass
        finally:
            handle.remove()
        return found[0]

    def same(self, examples: Sequence[Example], dtype: torch.dtype) -> bool:
        """Whether the short cut gives what the network gives, and no chance is at work below.

        It is tried on a few examples: dropout and embedding noise show themselves, and networks that do
        more with their blocks than to run them one after the other.
        """
        device = next(self.network.parameters()).device
        (row,) = pack(examples, shared_prefix(examples), 1 << 30, device, dtype)
        tolerance = 1e-4 if dtype == torch.float32 else 0.1
        self.network.eval()
        quiet = self._states(row)
        self.network.train()
        if not torch.equal(quiet, self._states(row)):
            return False
        self.keep(examples, 1 << 30, dtype)
        (short,) = pack(examples, shared_prefix(examples), 1 << 30, device, dtype, self.hidden)
        whole = log_probabilities(self.network, row)
        try:
            with self.left_out():
                upper = log_probabilities(self.network, short)
        except (ValueError, TypeError, NotImplementedError, RuntimeError, IndexError, KeyError):
            return False
        return torch.allclose(whole, upper, atol=tolerance, rtol=tolerance)


class _Enough(Exception):
    """The upper blocks need not be run."""


def frozen_below(network: nn.Module) -> int:
    """How many leading blocks have nothing trainable in or before them; 0 where no block is trained."""
    try:
        names = [block.name for block in blocks(network)]
    except InvalidParams:
        return 0
    trained = [name for name, value in network.named_parameters() if value.requires_grad]
    numbers = [at for at, name in enumerate(names) if any(one.startswith(f"{name}.") for one in trained)]
    if not numbers:
        return 0
    order = [name for name, _ in network.named_parameters()]
    start = next(at for at, name in enumerate(order) if name.startswith(f"{names[numbers[0]]}."))
    return numbers[0] if all(order.index(name) >= start for name in trained) else 0


def keep(
    network: nn.Module, examples: Sequence[Example], limit: int, dtype: torch.dtype
) -> LowerBlocks | None:
    """The hidden states of all ``examples``; None where there is no block to spare, or no room.

    Args:
        network: in training mode, and left in it.
        limit: most tokens of one forward pass.
    """
    lower = _to_keep(network, examples, dtype)
    if lower is None or not lower.same(examples[:TRIED], dtype):
        return None
    lower.keep(examples, limit, dtype)
    return lower


def stand_in(network: nn.Module, examples: Sequence[Example], dtype: torch.dtype) -> LowerBlocks | None:
    """What ``keep`` would give, without numbers, for a network on the meta device; nothing is tried."""
    lower = _to_keep(network, examples, dtype)
    if lower is not None:
        width = network.config.get_text_config().hidden_size
        shapes = {example: (len(example.ids) - 1, width) for example in examples}
        lower.hidden = {one: torch.empty(shape, dtype=dtype, device="meta") for one, shape in shapes.items()}
    return lower


def _to_keep(network: nn.Module, examples: Sequence[Example], dtype: torch.dtype) -> LowerBlocks | None:
    count = frozen_below(network)
    width = network.config.get_text_config().hidden_size
    wanted = sum(len(example.ids) for example in examples) * width * dtype.itemsize
    return LowerBlocks(network, count) if count and wanted <= MOST_BYTES else None
