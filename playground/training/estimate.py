"""What a training will take, before it starts: exact counts, and memory and time estimated.

Counts come from the real module tree, wrapped by the method itself, without weights (PyTorch's meta device).

Memory in bytes is the sum of

- weights: the base model's parameters and buffers in their number type; those of linear layers in a
  quantised one take ``QUANTISED`` bytes each; where a CPU multiplies in bfloat16, the rounded copies, too,
- adapter: the parameters that the method adds,
- optimiser: AdamW's two numbers for each trained one,
- gradients: one number for each trained one, half as many bytes where they are kept in bfloat16,
- activations: what else lives at the highest point of one step with the longest examples, or of the dev
  loss, as ``dry_step`` finds it by running the step without numbers (in bfloat16 where the plan asks for autocast,
  whose rounded weights are among it); and the hidden states that are kept of the blocks below the first trained one,
- runtime: on a CPU, Python with PyTorch, transformers and PEFT (and bitsandbytes where the weights are
  quantised), and what the allocator keeps, measured; on a GPU nothing, because there the measured peak
  counts tensors only (the driver's context, about 0.5 GB, is beside it, and so is the workspace of cuBLAS).

Time is (all FLOPs and bytes moved from the same dry step)::

    (training tokens × FLOPs per token + dev evaluations × FLOPs forward) / rate
    + as many tokens × bytes that all but matrix products and attention reads and writes / bandwidth
    + steps × bytes that the optimiser reads and writes / bandwidth
    + FLOPs of the blocks below the first trained one, once for each example, / rate
    + batches that are computed to choose the number of threads
    + sampled answers: FLOPs of their prompts / rate, and weights / bandwidth for each new token

where the rate is that of an earlier run of the same method and model here (its tokens per second × FLOPs
per token), else that of another method's run with this model, else what a short probe of this machine's matrix
products reaches, as busy as the machine is now, × ``EFFICIENCY``. The first two have the bytes moved in them.

Estimated against measured peaks with SmolLM2-135M on a CPU (Linux, one thread): LoRA of all linear layers with
batch 4 1.66 and 1.67 GB, with batch 8 1.99 and 1.97 GB, of attention alone 1.54 and 1.55 GB, all weights with
bfloat16 products, batch 4 and two threads 2.68 and 2.89 GB, LoRA with bfloat16 products 1.87 and 1.91 GB; on a
CPU without such products, with what was freed before given back, LoRA with batch 2 (two steps) 1.45 and 1.53 GB.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from playground.data.tasks import Item
from playground.training import capacity, mixed
from playground.training.batches import Example, Row, pack, pad, shared_prefix, within_window
from playground.training.capacity import Verdict
from playground.training.dry_step import DryStep, dry_step
from playground.training.lower_blocks import LowerBlocks, stand_in
from playground.training.measure import trials
from playground.training.text import PROBE, Plan

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# resident set of a worker beside tensors: everything imported 450 MB, the rest kept by the allocator; measured on Linux
RUNTIME_BYTES = 555_000_000
QUANTISED_RUNTIME_BYTES = 175_000_000  # what importing bitsandbytes adds to it
EFFICIENCY = 0.85  # of the probe's rate; so ten methods' tokens per second were 0.87 to 1.18 of measured
OPTIMISER_PASSES = 7  # AdamW reads weight, gradient and two moments, and writes three of them

# bytes of one weight of a linear layer, scales included: NF4 in blocks of 64 with scales that are quantised
# in blocks of 256, or in float32; 8-bit (Dettmers et al. 2023, arXiv:2305.14314, and 2022, arXiv:2208.07339)
QUANTISED = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "nf4-single": 0.5 + 4 / 64, "int8": 1.0}

SAMPLED = 2_000  # examples that are tokenised for an estimate

Source = Literal["earlier run", "another method's run", "probe"]

CANNOT_RUN = (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, LookupError)


@dataclass(frozen=True)
class Memory:
    """Parts of the estimated peak, in bytes."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    runtime: int

    @property
    def total(self) -> int:
        """The estimated peak, in bytes."""
        return sum(self.__dict__.values())


@dataclass(frozen=True)
class Estimate:
    """What a training would take on ``device``.

    ``tokens`` go through the model in the whole training, forwards and backwards. ``examples`` are used,
    ``left_out`` are too long. Counts are exact (of more than ``SAMPLED`` examples: scaled up from a
    part); ``memory`` and ``seconds`` (training, dev losses and samples) are estimates. ``speed`` says where the
    seconds come from, ``flops_per_token`` counts forward and backward. ``dry`` is False where the model does
    not run without weights, and a formula for Llama-type layers stood in. ``free`` are the bytes that the
    device has left (None = unknown), and ``verdict`` compares; ``advice`` says what to lower, "" = nothing.
    """

    device: str
    examples: int
    left_out: int
    steps: int
    batch_size: int
    effective_batch: int
    tokens: int
    trainable_parameters: int
    total_parameters: int
    memory: Memory
    seconds: float
    tokens_per_second: float
    flops_per_token: float
    speed: Source
    dry: bool
    free: int | None
    verdict: Verdict | None
    advice: str

    def record(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        memory = asdict(self.memory) | {"total": self.memory.total}
        return asdict(self) | {"memory": memory}


@dataclass(frozen=True)
class Workload:
    """What a training has to go through beside its examples.

    ``dev`` are those of the dev loss. ``sampled`` are examples that are answered before, during and after
    training, with at most ``sample_tokens`` new tokens. ``plan`` says how often. Where ``examples`` are a
    part of the training examples, ``stands_for`` says how many there are in all (0 = these).
    """

    examples: Sequence[Example]
    dev: Sequence[Example]
    plan: Plan
    sampled: Sequence[Example] = ()
    sample_tokens: int = 0
    stands_for: int = 0


def estimate(
    model: nn.Module,
    wrap: Callable[[nn.Module], nn.Module],
    work: Workload,
    *,
    device: str = "cpu",
    quantization: str | None = None,
    tokens_per_second: float | None = None,
    their_flops: float | None = None,
    flops_per_second: float | None = None,
) -> Estimate:
    """What training would take.

    Args:
        model: the base model as ``weightless.skeleton`` gives it, in the number type that it would be loaded in.
        wrap: adds what is trained, as the method does for real, short cuts included.
        quantization: of the base model's linear layers: "nf4", "int8" or None.
        tokens_per_second: training speed measured before, on this machine with this method and model.
        their_flops: FLOPs of one of those tokens: other settings may mean other work; None = as now.
        flops_per_second: the same of another method with this model; used where the first is not known.
    """
    plan = work.plan
    config, dtype = model.config.get_text_config(), model.dtype
    stored = _bytes(model)
    weights, unpacked = _quantised(model, stored, quantization)
    with torch.device("meta"):
        wrapped = wrap(model)
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    trained_bytes = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    kept = [example for example in work.examples if len(example.ids) <= plan.max_length]
    half = _multiplies_half(plan, torch.device(device), dtype)
    run = _Dry(wrapped, config, dtype, plan, kept, work.dev, half, device != "cpu")
    memory = Memory(
        weights=weights + (run.rounded if quantization is None else 0),  # packed weights have no copies
        adapter=max(0, _bytes(wrapped) - stored),
        gradients=run.gradients,
        optimizer=2 * trained_bytes,
        activations=max(0, run.peak - run.gradients) + unpacked + run.kept,
        runtime=_runtime(device, quantization),
    )
    times = (work.stands_for or len(work.examples)) / max(1, len(work.examples))
    used = round(len(kept) * times)
    tokens = round(_tokens(kept, plan, run.packed) * times) if kept else 0
    threads = capacity.thread_counts(plan.threads or 0)
    measured = capacity.speed(device, dtype, run.half, threads, *_shape(config, run.tokens))
    source, pace = _pace(tokens_per_second, their_flops or run.flops, flops_per_second, measured)
    training = pace.seconds(tokens * run.flops + times * run.below_flops, tokens * run.moved)
    if source != "earlier run":  # such a run's speed has the optimiser in it already
        training += plan.steps(used) * OPTIMISER_PASSES * trained_bytes / measured.bytes
    batch = training / max(1, plan.steps(used) * plan.gradient_accumulation)
    probe = batch * min(1, PROBE / plan.batch_size)
    trying = _trials(plan, device, threads, probe) * probe
    free = capacity.free_memory(device)
    verdict = capacity.verdict(memory.total, free)
    return Estimate(
        device=device,
        examples=used,
        left_out=(work.stands_for or len(work.examples)) - used,
        steps=plan.steps(used),
        batch_size=plan.batch_size,
        effective_batch=plan.effective_batch,
        tokens=tokens,
        trainable_parameters=sum(parameter.numel() for parameter in trained),
        total_parameters=sum(parameter.numel() for parameter in wrapped.parameters()),
        memory=memory,
        seconds=trying
        + training
        + _looking(
            work, run.packed, pace.seconds(run.forward_flops, run.forward_moved), stored / measured.bytes
        ),
        tokens_per_second=tokens / training if training else 0.0,
        flops_per_token=run.flops,
        speed=source,
        dry=run.dry,
        free=free,
        verdict=verdict,
        advice=_advice(memory, plan) if verdict in ("tight", "does not fit") else "",
    )


@dataclass(frozen=True)
class _Pace:
    """FLOPs a second; ``bytes`` a second of what else is moved, infinite where the FLOPs' time has it in it."""

    flops: float
    bytes: float = math.inf

    def seconds(self, flops: float, moved: float) -> float:
        return flops / self.flops + moved / self.bytes


def _pace(
    tokens_per_second: float | None, flops: float, flops_per_second: float | None, measured: capacity.Speed
) -> tuple[Source, _Pace]:
    """Where the speed is taken from, and the speed; ``flops`` are those of one of ``tokens_per_second``."""
    if tokens_per_second and flops:
        return "earlier run", _Pace(tokens_per_second * flops)
    if flops_per_second:
        return "another method's run", _Pace(flops_per_second)
    return "probe", _Pace(measured.flops * EFFICIENCY, measured.bytes)


def part(items: Sequence[Item]) -> Sequence[Item]:
    """At most ``SAMPLED`` of the items, evenly spread over all of them."""
    if len(items) <= SAMPLED:
        return items
    return [items[at * len(items) // SAMPLED] for at in range(SAMPLED)]


def _runtime(device: str, quantization: str | None) -> int:
    if device.startswith("cuda"):
        return 0
    return RUNTIME_BYTES + (QUANTISED_RUNTIME_BYTES if quantization else 0)


def _bytes(network: nn.Module) -> int:
    tensors = (*network.parameters(), *network.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _quantised(model: nn.Module, stored: int, kind: str | None) -> tuple[int, int]:
    """Bytes of the weights, and of the largest layer unpacked for one product."""
    if kind is None:
        return stored, 0
    head = model.get_output_embeddings()
    sizes = [
        layer.weight.numel()
        for layer in model.modules()
        if isinstance(layer, nn.Linear) and layer is not head
    ]
    packed = round(sum(sizes) * QUANTISED[kind]) - sum(sizes) * model.dtype.itemsize
    return stored + packed, max(sizes, default=0) * model.dtype.itemsize


def _multiplies_half(plan: Plan, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``text.train`` would multiply in bfloat16 on this CPU."""
    wanted = mixed.pays(device) if plan.mixed is None else plan.mixed
    return wanted and not plan.autocast and dtype == torch.float32


class _Dry:
    """The dry step's findings: ``peak`` bytes, FLOPs per token, ``tokens`` of the largest row.

    ``kept`` are the bytes of hidden states from the blocks below the first trained one, ``below_flops`` what
    computing them once takes. ``rounded`` are the bytes of bfloat16 copies of frozen weights, ``half`` whether
    products are in it, ``gradients`` the bytes of all gradients of a step. ``packed`` is whether
    ``text.train`` would pack the examples, as far as that shows without numbers.
    """

    def __init__(self, wrapped, config, dtype, plan, kept, dev, half, fused_dropout):
        self.peak, self.forward_flops, self.flops, self.tokens, self.dry = 0, 0.0, 0.0, 1, True
        self.rounded, self.half, self.kept, self.below_flops, self.gradients = 0, half, 0, 0.0, 0
        self.forward_moved, self.moved, self.packed = 0.0, 0.0, True
        if not kept:
            return
        longest = sorted(kept, key=lambda example: len(example.ids), reverse=True)[: plan.batch_size]
        everything = [*kept, *dev]
        self.packed = packs = within_window(wrapped, everything)
        prefix = shared_prefix(kept)
        lower = stand_in(wrapped, everything, dtype) if packs and not plan.noise else None
        rows = _rows(longest, prefix, plan, dtype, packs, lower, plan.prompt_loss_weight)
        again = len(rows) > 1 or plan.gradient_accumulation > 1
        row = max(rows, key=lambda row: row.tokens)
        self.tokens = row.tokens
        looks = _rows(dev, shared_prefix(dev), plan, dtype, packs, lower) if dev else []
        look = max(looks, key=lambda row: row.tokens, default=None)
        try:
            prompts = bool(plan.prompt_loss_weight)
            with mixed.half_products(wrapped, prompts) if half else nullcontext():
                copies = [getattr(layer, "rounded", None) for layer in wrapped.modules()]
                self.rounded = sum(copy.nbytes for copy in copies if isinstance(copy, torch.Tensor))
                how = {"again": again, "autocast": plan.autocast, "fused_dropout": fused_dropout}
                step, taken = _either(wrapped, row, longest, prefix, lower=lower, **how)
                self.packed, row = packs and taken is row, taken
                dev_peak = (
                    _either(wrapped, look, dev[:1], learn=False, lower=lower)[0].peak_bytes if look else 0
                )
                if lower:
                    self.kept = sum(states.nbytes for states in lower.hidden.values())
                    self.below_flops = _below(wrapped, everything, dtype)
        except CANNOT_RUN:
            self.dry = False
            step, dev_peak = _by_formula(wrapped, config, row), 0
        self.peak, self.gradients = max(step.peak_bytes, dev_peak), step.gradient_bytes
        self.forward_flops, self.flops = step.forward_flops / row.tokens, step.flops / row.tokens
        self.forward_moved, self.moved = step.forward_moved / row.tokens, step.moved / row.tokens


def _below(network: nn.Module, examples: Sequence[Example], dtype: torch.dtype) -> float:
    """FLOPs of one pass of all ``examples`` through the blocks below the first trained one."""
    prefix, meta = shared_prefix(examples), torch.device("meta")
    (row,) = pack(examples[:1], prefix, len(examples[0].ids), meta, dtype)
    lower = stand_in(network, examples[:1], dtype)
    (short,) = pack(examples[:1], prefix, len(examples[0].ids), meta, dtype, lower.hidden)
    whole = dry_step(network, row, learn=False).forward_flops
    upper = dry_step(network, short, learn=False, lower=lower).forward_flops
    own = sum(len(example.ids) - 1 - prefix for example in examples)
    return (whole - upper) / row.tokens * (own + prefix)


def _rows(
    examples: Sequence[Example],
    prefix: int,
    plan: Plan,
    dtype: torch.dtype,
    packs: bool,
    lower: LowerBlocks | None = None,
    prompt_weight: float = 0.0,
) -> list[Row]:
    """As ``text.train`` would make them: packed, or padded where a sliding window forbids it."""
    meta = torch.device("meta")
    if packs:
        hidden = lower.hidden if lower else None
        return pack(examples, prefix, plan.pack_tokens, meta, dtype, hidden, prompt_weight)
    size = max(1, plan.pack_tokens // max(len(example.ids) for example in examples))
    return [
        _padded(examples[start : start + size], prefix, prompt_weight)
        for start in range(0, len(examples), size)
    ]


def _padded(examples: Sequence[Example], prefix: int = 0, prompt_weight: float = 0.0) -> Row:
    """Without mask and positions: their contents would be asked for, and they are small."""
    row = pad(examples, torch.device("meta"), prefix=prefix, prompt_weight=prompt_weight)
    inputs = {name: row.inputs[name] for name in ("input_ids", "logits_to_keep")}
    return replace(row, inputs=inputs, tokens=row.inputs["input_ids"].numel())


def _masked(row: Row) -> Row:
    """A padded row with the mask that transformers would make, for models that must know which mask to make."""
    batch, length = row.inputs["input_ids"].shape
    mask = torch.empty(batch, 1, length, length, dtype=torch.bool, device="meta")
    return replace(row, inputs=row.inputs | {"attention_mask": mask})


def _either(
    network: nn.Module,
    row: Row,
    examples: Sequence[Example],
    prefix: int = 0,
    *,
    lower: LowerBlocks | None = None,
    **how: bool,
) -> tuple[DryStep, Row]:
    """The step and its row: the one given, or the examples padded for a model that takes no packed row."""
    packed = "attention_mask" in row.inputs
    padded = _padded(examples, prefix, row.prompt_weight) if packed else row
    for taken, start in ((row, lower), (padded, None)):
        try:
            return dry_step(network, taken, lower=start, **how), taken
        except CANNOT_RUN:
            continue
    return dry_step(network, _masked(padded), **how), padded


def _by_formula(network: nn.Module, config: "PreTrainedConfig", row: Row) -> DryStep:
    """For a model that does not run without weights: a Llama-type layer's tensors, Kaplan et al.'s FLOPs.

    Each token takes two FLOPs a weight forward, two for the activations' gradients, and two more for each
    trained weight (arXiv:2001.08361, section 2.1). The embedding takes none, the head its labels only.
    """
    parameters = dict(network.named_parameters())
    outside = {
        id(layer.weight)
        for layer in (network.get_input_embeddings(), network.get_output_embeddings())
        if layer
    }
    inside = [parameter for parameter in parameters.values() if id(parameter) not in outside]
    weights = sum(parameter.numel() for parameter in inside)
    learnt = sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad)
    size = next(iter(parameters.values())).element_size()
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    head = row.labels.numel() * config.vocab_size
    activations = row.tokens * config.num_hidden_layers * (12 * hidden + 5 * inner) * size + head * 12
    forward = 2 * row.tokens * weights + 2 * head * hidden
    kept = learnt * size
    moved = 3 * activations  # each is written once and read twice, about; its gradient, too
    return DryStep(activations + kept, forward, 2 * forward + 2 * row.tokens * learnt, kept, moved, 2 * moved)


def _shape(config: "PreTrainedConfig", tokens: int) -> tuple[int, int, int]:
    hidden = config.hidden_size
    return tokens, hidden, getattr(config, "intermediate_size", None) or 4 * hidden


def _tokens(examples: Sequence[Example], plan: Plan, packed: bool) -> int:
    """Tokens through the model, the last of an example never; packed the shared beginning once a batch."""
    if not packed:
        return plan.epochs * sum(len(example.ids) - 1 for example in examples)
    prefix = shared_prefix(examples)
    own = sum(len(example.ids) - 1 - prefix for example in examples)
    sizes = [plan.effective_batch] * (len(examples) // plan.effective_batch)
    sizes.append(len(examples) % plan.effective_batch)
    batches = sum(-(-size // plan.batch_size) for size in sizes)
    return plan.epochs * (own + prefix * batches)


def _trials(plan: Plan, device: str, threads: Sequence[int], seconds: float) -> int:
    """Pieces of so many seconds that ``measure.calibrate_threads`` computes before the first step."""
    if device != "cpu" or plan.threads != 0 or len(threads) <= 1:
        return 0
    return (1 + trials(seconds)) * len(threads)


def _looking(work: Workload, packed: bool, reading: float, writing: float) -> float:
    """Seconds of dev losses and sampled answers: at the start, in the middle and at the end.

    ``reading`` and ``writing`` are seconds of a token that is given, and of one that is sampled.
    """
    times = work.plan.evals + 1
    read = sum(len(example.ids) - example.answer for example in work.sampled)
    if work.dev:
        prefix = shared_prefix(work.dev) if packed else 0
        read += sum(len(example.ids) - 1 - prefix for example in work.dev)
    return times * (read * reading + (work.sample_tokens * writing if work.sampled else 0.0))


def _advice(memory: Memory, plan: Plan) -> str:
    """What takes most, and what to lower."""
    trained = memory.gradients + memory.optimizer + memory.adapter
    largest = max(memory.activations, trained, memory.weights)
    if largest == memory.activations:
        if plan.batch_size > 1:
            return "Lower the batch size, and raise gradient accumulation to make up for it; or lower the maximum length."
        return "Lower the maximum length, or leave out the longest examples."
    if largest == trained:
        return "Train fewer weights: a lower rank, fewer layers, or a method that adds a small part, such as LoRA."
    return "Choose a smaller model, or a method that loads it quantised."
