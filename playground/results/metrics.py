"""The measured columns: one frozen list drives every table, chart and export."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricSpec:
    """One measured number of a run.

    ``unit`` is "" (share 0..1 shown as per cent), "difference" (of shares), "count", "s", "B", "tokens",
    "tokens/s", "loss" or "nats". Those of ``CURVES`` are told step by step and are no result of a run.
    """

    name: str
    label: str
    unit: str
    higher_is_better: bool | None
    help: str
    column: bool = True  # stands in the comparison table


METRICS = (
    MetricSpec("quality", "Quality", "", True, "The task's metric on the held-out test items."),
    MetricSpec("quality_low", "Quality, lower bound", "", None, "95 % interval, lower end.", False),
    MetricSpec("quality_high", "Quality, upper bound", "", None, "95 % interval, upper end.", False),
    MetricSpec("n", "Test items", "count", None, "How many test items were answered."),
    MetricSpec("exact_match", "Exact match", "", True, "Share of answers equal to an accepted form.", False),
    MetricSpec(
        "token_f1", "Token F1", "", True, "Mean overlap of words with the closest accepted form.", False
    ),
    MetricSpec("valid_rate", "Valid format", "", True, "Share of answers in the form that was asked for."),
    MetricSpec(
        "trainable_parameters", "Trainable parameters", "count", False, "Numbers that training may change."
    ),
    MetricSpec(
        "trainable_share", "Trainable share", "", False, "Trainable parameters among all of the model's."
    ),
    MetricSpec(
        "load_seconds", "Load", "s", False, "Loading the base model from disk. Download is not in it."
    ),
    MetricSpec(
        "base_bytes",
        "Base in memory",
        "B",
        False,
        "The base model's weights as loaded, quantised or not, with what is needed to read them.",
    ),
    MetricSpec(
        "adapt_seconds",
        "Adapt",
        "s",
        False,
        "Training, or building the index. Loading and testing are not in it.",
    ),
    MetricSpec(
        "adapt_peak_bytes",
        "Peak memory, adapting",
        "B",
        False,
        "Highest memory of the run's process while adapting.",
    ),
    MetricSpec(
        "answer_peak_bytes",
        "Peak memory, answering",
        "B",
        False,
        "Highest memory of the run's process while answering the test items.",
        False,
    ),
    MetricSpec(
        "retention_divergence",
        "Forgetting",
        "nats",
        False,
        "How far the model's next token moved away from the base model's on texts that have nothing to do with the"
        " task: KL divergence, nats per token. 0 = nothing changed.",
    ),
    MetricSpec(
        "retention_accuracy_change",
        "General knowledge, change",
        "difference",
        True,
        "Share of general questions answered right, minus the base model's share.",
    ),
    MetricSpec(
        "retention_accuracy",
        "General knowledge",
        "",
        True,
        "Share of general questions where the model finds the right one of four endings the likeliest.",
        False,
    ),
    MetricSpec(
        "retention_loss",
        "Loss on unrelated text",
        "loss",
        False,
        "Mean cross-entropy on plain prose that has nothing to do with the task, nats per token.",
        False,
    ),
    MetricSpec(
        "retention_loss_change",
        "Loss on unrelated text, change",
        "loss",
        False,
        "The same, minus the base model's.",
        False,
    ),
    MetricSpec(
        "retention_seconds",
        "Measuring forgetting",
        "s",
        False,
        "Going through the general texts and questions once.",
        False,
    ),
    MetricSpec("stored_bytes", "Stored", "B", False, "Bytes on disk beside the base model."),
    MetricSpec(
        "prompt_tokens", "Prompt tokens", "tokens", False, "Mean tokens that one question sends to the model."
    ),
    MetricSpec(
        "query_seconds_p50",
        "Seconds per query, p50",
        "s",
        False,
        "One question alone, from text to whole answer, retrieval included: median.",
    ),
    MetricSpec("query_seconds_p95", "Seconds per query, p95", "s", False, "The same, 95th percentile."),
    MetricSpec(
        "tokens_per_second",
        "Tokens per second",
        "tokens/s",
        True,
        "Tokens generated per second when one question is asked alone.",
    ),
    MetricSpec("chunks", "Chunks", "count", None, "Passages in the index that the run built.", False),
    MetricSpec(
        "recall_at_k",
        "Recall at k",
        "",
        True,
        "Share of the dev questions' evidence that the k retrieved passages hold.",
        False,
    ),
    MetricSpec("evaluate_seconds", "Test", "s", False, "Answering all test items in batches.", False),
    MetricSpec("steps", "Steps trained", "count", None, "Steps of the optimiser that were taken.", False),
    MetricSpec(
        "kept_step",
        "Step kept",
        "count",
        None,
        "The step whose weights are the result; an earlier one where the dev loss rose after it.",
        False,
    ),
    MetricSpec("train_loss", "Train loss", "loss", False, "Mean cross-entropy of the answer tokens.", False),
    MetricSpec("dev_loss", "Dev loss", "loss", False, "The same on the dev split.", False),
    MetricSpec("learning_rate", "Learning rate", "", None, "Of the optimiser at that step.", False),
    MetricSpec(
        "train_tokens_per_second",
        "Training tokens per second",
        "tokens/s",
        True,
        "Tokens that went through the model.",
        False,
    ),
    MetricSpec(
        "train_memory_bytes",
        "Memory in use",
        "B",
        False,
        "Of the run's process at that step; on CUDA what the allocator gave out.",
        False,
    ),
)

CURVES = frozenset(
    {"train_loss", "dev_loss", "learning_rate", "train_tokens_per_second", "train_memory_bytes"}
)
BY_NAME = {spec.name: spec for spec in METRICS}
