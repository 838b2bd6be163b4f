"""The measured columns: one frozen list drives every table, chart and export."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MetricSpec:
    """One measured number of a run.

    ``unit`` is "" (share 0..1 shown as per cent), "difference" (of shares), "similarity" (a cosine, or one
    minus it), "count", "s", "B", "tokens", "tokens/s", "steps/s", "loss" or "nats". Those of ``CURVES`` are
    told step by step; they are no result of a run unless they are among ``LOOKS``, too.
    ``modality`` is that of the runs that have it, None = of all.
    """

    name: str
    label: str
    unit: str
    higher_is_better: bool | None
    help: str
    column: bool = True  # stands in the comparison table
    modality: Literal["text", "image"] | None = None


METRICS = (
    MetricSpec(
        "quality", "Quality", "", True, "The task's metric on the held-out test items.", modality="text"
    ),
    MetricSpec(
        "quality_low", "Quality, lower bound", "", None, "95 % interval, lower end.", False, modality="text"
    ),
    MetricSpec(
        "quality_high", "Quality, upper bound", "", None, "95 % interval, upper end.", False, modality="text"
    ),
    MetricSpec("n", "Test items", "count", None, "How many test items were answered.", modality="text"),
    MetricSpec(
        "exact_match",
        "Exact match",
        "",
        True,
        "Share of answers equal to an accepted form.",
        False,
        modality="text",
    ),
    MetricSpec(
        "token_f1",
        "Token F1",
        "",
        True,
        "Mean overlap of words with the closest accepted form.",
        False,
        modality="text",
    ),
    MetricSpec(
        "valid_rate",
        "Valid format",
        "",
        True,
        "Share of answers in the form that was asked for.",
        modality="text",
    ),
    MetricSpec(
        "subject_fidelity",
        "Subject fidelity",
        "similarity",
        True,
        "How much the drawn pictures look like held-out pictures of the subject: mean cosine of their embeddings.",
        modality="image",
    ),
    MetricSpec(
        "prompt_fidelity",
        "Prompt fidelity",
        "similarity",
        True,
        "How well the drawn pictures fit their prompts: mean cosine of CLIP's embeddings of picture and text.",
        modality="image",
    ),
    MetricSpec(
        "class_drift",
        "Drift of the class",
        "similarity",
        False,
        "How far pictures of the class alone moved away from those that the base model drew from the same prompt"
        " and seed: 1 − mean cosine. 0 = nothing changed.",
        modality="image",
    ),
    MetricSpec(
        "diversity",
        "Diversity",
        "similarity",
        True,
        "How different the drawn pictures are from each other: 1 − mean cosine of all pairs.",
        modality="image",
    ),
    MetricSpec(
        "memorisation",
        "Nearest training picture",
        "similarity",
        None,
        "The highest similarity of a drawn picture to a training picture. Close to 1 = a copy.",
        modality="image",
    ),
    MetricSpec(
        "seconds_per_image",
        "Seconds per image",
        "s",
        False,
        "Drawing one picture, several at once, its share of the time.",
        modality="image",
    ),
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
        "embedder_load_seconds",
        "Load, embedding model",
        "s",
        False,
        "Loading the embedding model, where a method needs it. Neither in Load nor in Adapt.",
        False,
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
        "estimated_adapt_seconds",
        "Adapt, estimated",
        "s",
        False,
        "What was told before the start.",
        False,
    ),
    MetricSpec(
        "estimated_peak_bytes",
        "Peak memory, estimated",
        "B",
        False,
        "What was told before the start, of adapting.",
        False,
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
        modality="text",
    ),
    MetricSpec(
        "retention_accuracy_change",
        "General knowledge, change",
        "difference",
        True,
        "Share of general questions answered right, minus the base model's share.",
        modality="text",
    ),
    MetricSpec(
        "retention_accuracy",
        "General knowledge",
        "",
        True,
        "Share of general questions where the model finds the right one of four endings the likeliest.",
        False,
        modality="text",
    ),
    MetricSpec(
        "retention_loss",
        "Loss on unrelated text",
        "loss",
        False,
        "Mean cross-entropy on plain prose that has nothing to do with the task, nats per token.",
        False,
        modality="text",
    ),
    MetricSpec(
        "retention_loss_change",
        "Loss on unrelated text, change",
        "loss",
        False,
        "The same, minus the base model's.",
        False,
        modality="text",
    ),
    MetricSpec(
        "retention_seconds",
        "Measuring forgetting",
        "s",
        False,
        "Going through the general texts and questions once.",
        False,
        modality="text",
    ),
    MetricSpec("stored_bytes", "Stored", "B", False, "Bytes on disk beside the base model."),
    MetricSpec(
        "prompt_tokens",
        "Prompt tokens",
        "tokens",
        False,
        "Mean tokens that one question sends to the model.",
        modality="text",
    ),
    MetricSpec(
        "query_seconds_p50",
        "Seconds per query, p50",
        "s",
        False,
        "One question alone, from text to whole answer, retrieval included: median.",
        modality="text",
    ),
    MetricSpec(
        "query_seconds_p95",
        "Seconds per query, p95",
        "s",
        False,
        "The same, 95th percentile.",
        modality="text",
    ),
    MetricSpec(
        "tokens_per_second",
        "Tokens per second",
        "tokens/s",
        True,
        "Tokens generated per second when one question is asked alone.",
        modality="text",
    ),
    MetricSpec(
        "chunks", "Chunks", "count", None, "Passages in the index that the run built.", False, modality="text"
    ),
    MetricSpec(
        "recall_at_k",
        "Recall at k, dev split",
        "",
        True,
        "Share of the evidence of the dev split's questions (not the test's) that the k retrieved passages hold.",
        False,
        modality="text",
    ),
    MetricSpec(
        "evaluate_seconds", "Test", "s", False, "Answering all test items in batches.", False, modality="text"
    ),
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
    MetricSpec("dev_loss", "Dev loss", "loss", False, "The same on the dev split.", False, modality="text"),
    MetricSpec("learning_rate", "Learning rate", "", None, "Of the optimiser at that step.", False),
    MetricSpec(
        "train_tokens_per_second",
        "Training tokens per second",
        "tokens/s",
        True,
        "Tokens that went through the model.",
        False,
        modality="text",
    ),
    MetricSpec(
        "train_memory_bytes",
        "Memory in use",
        "B",
        False,
        "Of the run's process at that step; on CUDA what the allocator gave out.",
        False,
    ),
    MetricSpec(
        "instance_loss",
        "Loss on the subject",
        "loss",
        False,
        "Mean squared error of the denoiser on the subject's own pictures.",
        False,
        "image",
    ),
    MetricSpec(
        "prior_loss",
        "Loss on the class",
        "loss",
        False,
        "The same on the class alone (prior preservation), before it is weighted with λ.",
        False,
        "image",
    ),
    MetricSpec(
        "steps_per_second",
        "Steps per second",
        "steps/s",
        True,
        "Steps of the optimiser per second of training.",
        False,
        "image",
    ),
)

LOOKS = frozenset({"subject_fidelity", "prompt_fidelity", "class_drift", "diversity", "memorisation"})
CURVES = LOOKS | {
    "train_loss",
    "dev_loss",
    "learning_rate",
    "train_tokens_per_second",
    "train_memory_bytes",
    "instance_loss",
    "prior_loss",
    "steps_per_second",
}
BY_NAME = {spec.name: spec for spec in METRICS}
