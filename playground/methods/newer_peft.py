"""PEFT's newer tuners, each a declaration: its configuration, what one may choose, and what it is.

All take the same path as LoRA (``PeftTuner``); a tuner that needs more than its configuration has a
class of its own at the end.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import create_model

from playground.errors import InvalidParams
from playground.methods.base import parameter
from playground.methods.parametric import BlockParams, TrainingParams
from playground.methods.peft_tuner import PeftTuner, require_divisor, target_layers

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

Kind = Literal["all-linear", "attention", "mlp"]


@dataclass(frozen=True)
class Choice:
    """One parameter: its name here, PEFT's name for it, its type, its default, label, help and bounds.

    ``divides``: it must divide the sizes of the layers.
    """

    name: str
    argument: str
    type: Any
    default: Any
    label: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    divides: bool = False
    advanced: bool = False


@dataclass(frozen=True)
class Tuner:
    """One of PEFT's tuners.

    ``config`` is the name of its configuration in ``peft``, ``fixed`` what is always passed to it.
    ``layers`` are those it adapts unless one chooses others; None: it chooses for itself. The rest is as
    in ``Method`` and ``PeftTuner``.
    """

    id: str
    title: str
    config: str
    formula: str
    summary: str
    use_case: str
    best_for: str
    paper: str
    learning_rate: float
    choices: tuple[Choice, ...]
    layers: Kind | None = "all-linear"
    fixed: dict[str, Any] = field(default_factory=dict)
    changes_weights: str = "Adds low-rank matrices"
    training_cost: str = "Medium"
    storage_cost: str = "Low"
    mergeable: bool = True
    made_on_cpu: bool = False


class DeclaredTuner(PeftTuner):
    """A technique made from a declaration, see ``declare``."""

    tuner: ClassVar[Tuner]

    def config(self, params: TrainingParams, network: "nn.Module") -> "PeftConfig":
        """See ``PeftTuner.config``."""
        import peft

        values = dict(self.tuner.fixed)
        for choice in self.tuner.choices:
            values[choice.argument] = getattr(params, choice.name)
            if choice.divides:
                require_divisor(network, params.layers, values[choice.argument], choice.name, choice.label)
        if self.tuner.layers:
            values["target_modules"] = target_layers(network, params.layers)
        return getattr(peft, self.tuner.config)(task_type="CAUSAL_LM", **values)


def declare(tuner: Tuner) -> type[DeclaredTuner]:
    """The technique that a declaration describes."""
    fields = {
        choice.name: (
            choice.type,
            parameter(
                choice.default,
                choice.label,
                choice.help,
                minimum=choice.minimum,
                maximum=choice.maximum,
                advanced=choice.advanced,
            ),
        )
        for choice in tuner.choices
    }
    if tuner.layers:
        help = "Which layers are adapted: all linear ones, those of attention, or of the MLP."
        fields["layers"] = (Kind, parameter(tuner.layers, "Layers", help))
    help = "The highest one; it rises to it and falls again."
    fields["learning_rate"] = (
        float,
        parameter(tuner.learning_rate, "Learning rate", help, minimum=1e-7, maximum=1.0),
    )
    name = tuner.config.removesuffix("Config")
    body = {
        key: getattr(tuner, key)
        for key in (
            "id", "title", "changes_weights", "summary", "training_cost", "storage_cost", "use_case",
            "best_for", "paper", "mergeable", "made_on_cpu",
        )
    }  # fmt: skip
    body |= {
        "tuner": tuner,
        "Params": create_model(
            f"{name}Params",
            __base__=BlockParams if tuner.layers else TrainingParams,
            __module__=__name__,
            __doc__=f"What {tuner.title} lets one choose.",
            **fields,
        ),
        "__doc__": f"{tuner.formula} {tuner.paper}.",
        "__module__": __name__,
    }
    return type(name, (DeclaredTuner,), body)


def _rank(default: int, help: str = "More can store more, and costs more.", **more: Any) -> Choice:
    return Choice("rank", "r", int, default, "Rank", help, 1, 512, **more)


def _alpha(default: float, argument: str = "alpha") -> Choice:
    help = "The update counts alpha / rank times: a larger alpha acts like a larger learning rate."
    return Choice("alpha", argument, float, default, "Alpha", help, 0.1, 2048)


def _seed(argument: str, default: int = 0) -> Choice:
    help = "Chooses the random part that is not trained."
    return Choice(
        "projection_seed", argument, int, default, "Projection seed", help, 0, 2**31 - 1, advanced=True
    )


HRA = declare(
    Tuner(
        id="hra",
        title="HRA",
        config="HRAConfig",
        formula="W = W0 · H1 · … · Hr, with Householder reflections H.",
        summary="Multiplies each layer by a chain of trained reflections: orthogonal like OFT, low-rank like LoRA.",
        changes_weights="Adds reflections",
        training_cost="High",
        use_case="Keeping what the model knows while learning a task",
        best_for="Quality a byte, where training time matters less",
        paper="Yuan et al. 2024, arXiv:2405.17484",
        learning_rate=2e-3,
        layers="attention",
        choices=(
            Choice(
                "rank",
                "r",
                int,
                8,
                "Reflections",
                "How many are chained; best an even number. Each costs time.",
                1,
                64,
            ),
        ),
    )
)

LoHa = declare(
    Tuner(
        id="loha",
        title="LoHa",
        config="LoHaConfig",
        formula="W = W0 + (alpha / rank) · (B1 · A1) ⊙ (B2 · A2).",
        summary="Multiplies two low-rank updates number by number: a rank up to the square of each one's.",
        use_case="More rank from the same number of trained numbers",
        best_for="Updates that a low rank cannot hold",
        paper="Hyeon-Woo et al. 2021, arXiv:2108.06098",
        learning_rate=5e-3,
        choices=(_rank(8), _alpha(16.0)),
    )
)

LoKr = declare(
    Tuner(
        id="lokr",
        title="LoKr",
        config="LoKrConfig",
        formula="W = W0 + (alpha / rank) · C ⊗ (B · A).",
        summary="Builds the update as a Kronecker product of a small matrix and a low-rank one.",
        use_case="LoRA's way in a smaller file",
        best_for="Many adapters on one base model",
        paper="Yeh et al. 2023, arXiv:2309.14859",
        learning_rate=5e-3,
        choices=(_rank(8), _alpha(16.0)),
    )
)

FourierFT = declare(
    Tuner(
        id="fourierft",
        title="FourierFT",
        config="FourierFTConfig",
        formula="W = W0 + scaling · Re(inverse Fourier transform of a sparse spectrum).",
        summary="Trains a few frequencies of each layer's update, at random places of its spectrum.",
        changes_weights="Adds a sparse spectrum",
        use_case="Very small adapters with a full-rank update",
        best_for="Very many adapters on one base model",
        paper="Gao et al. 2024, arXiv:2405.03003",
        learning_rate=3e-2,
        fixed={"init_weights": True},  # zeros: starts as the base model
        choices=(
            Choice(
                "frequencies",
                "n_frequency",
                int,
                1000,
                "Frequencies",
                "Trained numbers in each layer.",
                1,
                100_000,
            ),
            Choice(
                "scaling",
                "scaling",
                float,
                150.0,
                "Scaling",
                "Acts like a larger learning rate.",
                0.1,
                10_000,
            ),
            _seed("random_loc_seed", 777),
        ),
    )
)

WaveFT = declare(
    Tuner(
        id="waveft",
        title="WaveFT",
        config="WaveFTConfig",
        formula="W = W0 + scaling · (inverse wavelet transform of a sparse matrix).",
        summary="Trains a few wavelets of each layer's update: like FourierFT, with waves that are local.",
        changes_weights="Adds sparse wavelets",
        use_case="Very small adapters with a full-rank update",
        best_for="Very many adapters on one base model",
        paper="Bilican et al. 2025, arXiv:2505.12532",
        learning_rate=1e-3,
        choices=(
            Choice(
                "frequencies",
                "n_frequency",
                int,
                2592,
                "Wavelets",
                "Trained numbers in each layer.",
                1,
                100_000,
            ),
            Choice(
                "scaling", "scaling", float, 25.0, "Scaling", "Acts like a larger learning rate.", 0.1, 10_000
            ),
            _seed("random_loc_seed", 777),
        ),
    )
)

VBLoRA = declare(
    Tuner(
        id="vblora",
        title="VB-LoRA",
        config="VBLoRAConfig",
        formula="W = W0 + B · A, with A and B put together from the vectors of one shared bank.",
        summary="LoRA whose matrices are mixed from one bank of vectors that all layers share.",
        use_case="LoRA's way with a shared dictionary",
        best_for="Deep models with many alike layers",
        paper="Li et al. 2024, arXiv:2405.15179",
        learning_rate=1e-2,
        choices=(
            _rank(4),
            Choice("vectors", "num_vectors", int, 256, "Vectors", "How many the shared bank holds.", 2, 4096),
            Choice(
                "vector_length",
                "vector_length",
                int,
                64,
                "Vector length",
                "Numbers in each vector of the bank.",
                1,
                4096,
                divides=True,
            ),
        ),
    )
)

MiSS = declare(
    Tuner(
        id="miss",
        title="MiSS",
        config="MissConfig",
        formula="W = W0 + D repeated along the inputs, with one small D for each layer.",
        summary="Trains one small matrix for each layer and repeats it over blocks of the inputs.",
        changes_weights="Adds one shared matrix a layer",
        use_case="LoRA's quality with less memory and time",
        best_for="Fast training of mid-sized adapters",
        paper="Kang and Yin 2024, arXiv:2409.15371",
        learning_rate=1e-3,
        choices=(
            Choice(
                "rank",
                "r",
                int,
                32,
                "Rank",
                "Rows of the matrix; best an even number. More can store more.",
                2,
                512,
            ),
        ),
    )
)

RandLoRA = declare(
    Tuner(
        id="randlora",
        title="RandLoRA",
        config="RandLoraConfig",
        formula="W = W0 + Σ Bi · Λi · Ai · Γi over random bases, with Λ and Γ diagonal and trained.",
        summary="Adds up many random low-rank matrices with trained scales: a full-rank update from few numbers.",
        use_case="A full-rank update at LoRA's size",
        best_for="Tasks where LoRA's rank is too low",
        paper="Albert et al. 2025, arXiv:2502.00987",
        learning_rate=2e-3,
        choices=(
            _rank(32, "Of each random base. A smaller one means more bases, and more trained numbers."),
            Choice(
                "alpha",
                "randlora_alpha",
                int,
                640,
                "Alpha",
                "Acts like a larger learning rate; 20 times the rank is usual.",
                1,
                10_000,
            ),
            _seed("projection_prng_key"),
        ),
    )
)

C3A = declare(
    Tuner(
        id="c3a",
        title="C3A",
        config="C3AConfig",
        formula="W = W0 + a block matrix of circulant matrices, each given by one vector.",
        summary="Adds a circular convolution to each layer: a full-rank update from one vector a block.",
        changes_weights="Adds circular convolutions",
        use_case="A full-rank update in a small file",
        best_for="Models with evenly sized layers",
        paper="Chen et al. 2024, arXiv:2407.19342",
        learning_rate=0.1,
        fixed={"init_weights": True},  # zeros: starts as the base model
        choices=(
            Choice(
                "block_size",
                "block_size",
                int,
                64,
                "Block size",
                "Length of the convolutions; a larger one trains fewer numbers.",
                1,
                4096,
                divides=True,
            ),
        ),
    )
)

RoAd = declare(
    Tuner(
        id="road",
        title="RoAd",
        config="RoadConfig",
        formula="y = R · W0 · x, with R rotating and scaling pairs of outputs.",
        summary="Rotates and scales pairs of each layer's outputs: nearly as small as IA3, and it mixes.",
        changes_weights="Adds rotations",
        training_cost="Low",
        use_case="Very small adapters that are cheap to serve together",
        best_for="Many adapters in one batch",
        paper="Liao et al. 2024, arXiv:2409.00119",
        learning_rate=2e-2,
        choices=(
            Choice(
                "variant",
                "variant",
                Literal["road_1", "road_2", "road_4"],
                "road_1",
                "Variant",
                "How many angles and scales a pair has: 1, 2 or 4.",
            ),
            Choice(
                "group_size",
                "group_size",
                int,
                64,
                "Group size",
                "Pairs are formed within groups of outputs of this even size.",
                2,
                4096,
                divides=True,
                advanced=True,
            ),
        ),
    )
)

DeLoRA = declare(
    Tuner(
        id="delora",
        title="DeLoRA",
        config="DeloraConfig",
        formula="W = W0 + (λ / rank) · B · Ξ · A · diag(‖W0’s columns‖), with Ξ keeping each direction at length 1.",
        summary="LoRA that trains direction and strength apart, so that the update cannot run away.",
        use_case="LoRA that forgives a high learning rate or a long training",
        best_for="Little forgetting",
        paper="Bini et al. 2025, arXiv:2503.18225",
        learning_rate=5e-3,
        choices=(
            _rank(8),
            Choice(
                "strength",
                "delora_lambda",
                float,
                15.0,
                "Strength at the start",
                "How far from the base model the update may reach; it is trained, too.",
                0.1,
                1000,
            ),
        ),
    )
)

GraLoRA = declare(
    Tuner(
        id="gralora",
        title="GraLoRA",
        config="GraloraConfig",
        formula="W = W0 + (alpha / rank) · a k × k grid of blocks Bij · Aij.",
        summary="Cuts each layer into a grid of blocks with a small LoRA in each.",
        use_case="LoRA at high ranks without its crowding",
        best_for="Larger ranks",
        paper="Jung et al. 2025, arXiv:2505.20355",
        learning_rate=2e-3,
        choices=(
            _rank(16, "Of the whole grid; the parts must divide it.", divides=False),
            _alpha(32.0),
            Choice(
                "parts",
                "gralora_k",
                int,
                2,
                "Parts",
                "The grid has so many rows and columns.",
                1,
                64,
                divides=True,
            ),
        ),
    )
)

DEFT = declare(
    Tuner(
        id="deft",
        title="DEFT",
        config="DeftConfig",
        formula="W = (I - P · relu(P)ᵀ) · W0 + P · R.",
        summary="Takes a low-rank part out of each layer and puts a trained one in its place.",
        changes_weights="Replaces a low-rank part",
        use_case="Learning something new while following instructions as before",
        best_for="Little forgetting",
        paper="Kumar et al. 2025, NeurIPS",
        learning_rate=1e-3,
        choices=(
            _rank(8),
            Choice(
                "method",
                "decomposition_method",
                Literal["relu", "qr"],
                "relu",
                "Projection",
                "How the part is taken out: cheaply, or exactly orthogonal.",
                advanced=True,
            ),
        ),
    )
)

GLoRA = declare(
    Tuner(
        id="glora",
        title="GLoRA",
        config="GloraConfig",
        formula="W = W0 + W0 ⊙ A + B and b = b0 + b0 ⊙ D + E + W0 · C.",
        summary="LoRA that also scales the frozen weights and shifts the outputs.",
        use_case="One adapter that covers scaling, shifting and low-rank updates",
        best_for="Tasks far from what the model knows",
        paper="Chavan et al. 2023, arXiv:2306.07967",
        learning_rate=2e-3,
        choices=(_rank(8),),
    )
)

HiRA = declare(
    Tuner(
        id="hira",
        title="HiRA",
        config="HiraConfig",
        formula="W = W0 + W0 ⊙ (B · A).",
        summary="Multiplies the frozen weights by a low-rank matrix: a high-rank update from few numbers.",
        use_case="More rank from the same number of trained numbers",
        best_for="Updates that a low rank cannot hold",
        paper="Huang et al. 2025, ICLR",
        learning_rate=1e-2,
        choices=(_rank(16),),
    )
)

PSOFT = declare(
    Tuner(
        id="psoft",
        title="PSOFT",
        config="PsoftConfig",
        formula="W = W0 + A · (R - I) · B, with A, B the main singular directions of W0 and R a rotation.",
        summary="Rotates each layer's strongest directions among themselves: OFT in a small space.",
        changes_weights="Adds rotations",
        use_case="Keeping what the model knows, in a very small file",
        best_for="Very small files",
        paper="Wu et al. 2025, arXiv:2505.11235",
        learning_rate=5e-3,
        choices=(
            Choice("rank", "r", int, 32, "Rank", "How many directions are rotated.", 2, 512),
            Choice(
                "svd",
                "psoft_svd",
                Literal["full", "lowrank"],
                "lowrank",
                "Decomposition",
                "Exact, or quick and nearly so.",
                advanced=True,
            ),
        ),
    )
)

PEANuT = declare(
    Tuner(
        id="peanut",
        title="PEANuT",
        config="PeanutConfig",
        formula="W = W0 + f(W0), with f a small neural network of the frozen weights.",
        summary="A small network reads each layer's frozen weights and says how to change them.",
        changes_weights="Adds small networks",
        use_case="Updates that a product of two matrices cannot express",
        best_for="Tasks where LoRA levels off",
        paper="Zhong et al. 2024, arXiv:2410.01870",
        learning_rate=1e-3,
        choices=(
            _rank(16),
            Choice("depth", "depth", int, 0, "Hidden layers", "Of the small network, on each side.", 0, 8),
        ),
    )
)

PVeRA = declare(
    Tuner(
        id="pvera",
        title="PVeRA",
        config="PveraConfig",
        formula="VeRA with scales drawn from trained distributions while training.",
        summary="VeRA with chance in it: while training, its scales are drawn around what was learnt.",
        use_case="VeRA that overfits less",
        best_for="Little data",
        paper="arXiv:2512.07703",
        learning_rate=2e-2,
        choices=(
            _rank(256, "Columns of the shared random matrices. They are not trained, so it may be large."),
            _seed("projection_prng_key"),
        ),
    )
)

SuperTuning = declare(
    Tuner(
        id="supertuning",
        title="Super-Tuning",
        config="SupertuningConfig",
        formula="W = W0 + S, with S sparse where |W0| is largest.",
        summary="Trains the one percent of each layer's weights that are largest and leaves the rest.",
        changes_weights="Yes, a sparse part",
        use_case="Full fine-tuning where it may matter most",
        best_for="Sparse updates in a small file",
        paper="arXiv:2607.09287",
        learning_rate=1e-3,
        choices=(
            Choice(
                "sparsity",
                "sparsity",
                float,
                0.99,
                "Sparsity",
                "Share of the weights that stay as they are.",
                0,
                0.9999,
            ),
        ),
    )
)

TinyLoRA = declare(
    Tuner(
        id="tinylora",
        title="TinyLoRA",
        config="TinyLoraConfig",
        formula="W = W0 + U · Σ · (Σ vi · Pi) · Vᵀ, with only the few numbers v trained.",
        summary="Mixes random matrices between each layer's strongest directions; one short vector is trained.",
        training_cost="Low",
        use_case="Finding out how few numbers a task needs",
        best_for="The smallest adapters there are",
        paper="arXiv:2602.04118",
        learning_rate=2e-2,
        choices=(
            Choice("rank", "r", int, 2, "Rank", "Directions of each layer that are mixed.", 1, 64),
            Choice("size", "u", int, 64, "Vector length", "Trained numbers in each layer.", 1, 4096),
            Choice(
                "tying",
                "weight_tying",
                float,
                0.0,
                "Sharing",
                "0: each layer has its own vector; 1: all layers share one.",
                0,
                1,
            ),
            _seed("projection_seed", 42),
        ),
    )
)

UniLoRA = declare(
    Tuner(
        id="unilora",
        title="Uni-LoRA",
        config="UniLoraConfig",
        formula="LoRA whose numbers are all taken, at random fixed places, from one trained vector.",
        summary="One vector holds all that is trained; LoRA's matrices are filled from it at random.",
        training_cost="Low",
        use_case="LoRA's way with one vector for the whole model",
        best_for="Very many adapters on one base model",
        paper="arXiv:2506.00799",
        learning_rate=1e-2,
        made_on_cpu=True,
        choices=(
            _rank(4),
            Choice(
                "size",
                "theta_d_length",
                int,
                8192,
                "Vector length",
                "Trained numbers in all.",
                16,
                10_000_000,
            ),
            _seed("proj_seed", 42),
        ),
    )
)

BEFT = declare(
    Tuner(
        id="beft",
        title="BEFT",
        config="BeftConfig",
        formula="y = W0 · x + b, with b trained for the values of attention.",
        summary="Adds a trained bias to attention's values: BitFit cut down to where it helps most.",
        changes_weights="Adds biases",
        training_cost="Low",
        use_case="The smallest change of all layers",
        best_for="Very little data",
        paper="arXiv:2509.15974",
        learning_rate=1e-2,
        layers=None,
        mergeable=False,  # these layers have no bias to fold it into
        fixed={"target_modules": ["v_proj"]},
        choices=(),
    )
)

OSF = declare(
    Tuner(
        id="osf",
        title="OSF",
        config="OSFConfig",
        formula="W = Ufrozen Σ Vᵀ + Utrained Σ' V'ᵀ, with steps kept orthogonal to the frozen part.",
        summary="Full fine-tuning that keeps each layer's strongest directions and trains only the others.",
        changes_weights="Yes, its weaker directions",
        training_cost="High",
        storage_cost="High",
        use_case="One task after another without forgetting the first",
        best_for="Continual learning",
        paper="Nayak et al. 2025, arXiv:2504.07097",
        learning_rate=2e-4,
        layers="attention",
        choices=(
            Choice(
                "kept",
                "effective_rank",
                float,
                0.5,
                "Kept share",
                "Share of each layer's directions that stay as they are.",
                0.01,
                0.99,
            ),
        ),
    )
)


class SHiRA(
    declare(
        Tuner(
            id="shira",
            title="SHiRA",
            config="ShiraConfig",
            formula="W = W0 + S, with S sparse at random fixed places.",
            summary="Trains a random one or two percent of each layer's own weights and leaves the rest.",
            changes_weights="Yes, a sparse part",
            use_case="Adapters that are switched quickly and add up well",
            best_for="Several adapters at once",
            paper="Bhardwaj et al. 2024, arXiv:2406.13175",
            learning_rate=3e-3,
            choices=(
                _rank(8, "As many weights are trained as LoRA of this rank would have."),
                _seed("random_seed"),
            ),
        )
    )
):
    """Trains a random sparse part of the weights. Bhardwaj et al. 2024, arXiv:2406.13175."""

    def config(self, params: TrainingParams, network: "nn.Module") -> "PeftConfig":
        """See ``PeftTuner.config``; without weights, their number alone is made, not their places."""
        made = super().config(params, network)
        if network.device.type == "meta":
            made.mask_fn = None
        return made


class LlamaAdapter(
    declare(
        Tuner(
            id="adaption_prompt",
            title="LLaMA-Adapter",
            config="AdaptionPromptConfig",
            formula="Attention(x) + g · Attention(x over a trained prompt), with the gate g starting at 0.",
            summary="The upper layers attend to a trained prompt, too, through a gate that opens during training.",
            changes_weights="No, adds gated prompts",
            training_cost="Low",
            use_case="Instruction tuning that starts exactly as the base model",
            best_for="Llama-type models",
            paper="Zhang et al. 2023, arXiv:2303.16199",
            learning_rate=1e-2,
            layers=None,
            mergeable=False,
            choices=(
                Choice(
                    "length", "adapter_len", int, 16, "Prompt length", "Trained tokens in each layer.", 1, 512
                ),
                Choice(
                    "depth",
                    "adapter_layers",
                    int,
                    24,
                    "Layers",
                    "How many get a prompt, counted from the top; at most all.",
                    1,
                    512,
                ),
            ),
        )
    )
):
    """Adds gated attention to a trained prompt. Zhang et al. 2023, arXiv:2303.16199."""

    def config(self, params: TrainingParams, network: "nn.Module") -> "PeftConfig":
        """See ``PeftTuner.config``; more layers than the model has are all."""
        made = super().config(params, network)
        made.adapter_layers = min(params.depth, network.config.get_text_config().num_hidden_layers)
        return made

    def switch(self, network: "nn.Module", on: bool) -> None:
        """See ``Parametric.switch``; PEFT cannot switch on what is on."""
        if network.base_model._enabled != on:
            super().switch(network, on)


class TrainableTokens(
    declare(
        Tuner(
            id="trainable_tokens",
            title="Trainable tokens",
            config="TrainableTokensConfig",
            formula="The embeddings of a few chosen tokens are trained, all else is frozen.",
            summary="Trains the embeddings of a few tokens: those that mark the turns of a chat, or others by number.",
            changes_weights="Yes, a few embeddings",
            training_cost="Low",
            use_case="Giving meaning to new or special tokens",
            best_for="New tokens",
            paper="PEFT",
            learning_rate=3e-2,
            layers=None,
            choices=(
                Choice(
                    "tokens",
                    "token_indices",
                    str,
                    "",
                    "Tokens",
                    "Their numbers, with commas; empty for those that begin, end and fill a text.",
                ),
            ),
        )
    )
):
    """Trains the embeddings of a few chosen tokens."""

    def config(self, params: TrainingParams, network: "nn.Module") -> "PeftConfig":
        """See ``PeftTuner.config``."""
        from peft import TrainableTokensConfig

        settings = network.config.get_text_config()
        if params.tokens.strip():
            ids = _numbers(params.tokens)
        else:
            named = (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id)
            ids = {id for one in named for id in (one if isinstance(one, list) else [one]) if id is not None}
        wrong = sorted(id for id in ids if not 0 <= id < settings.vocab_size)
        if wrong or not ids:
            raise InvalidParams(
                f"Tokens must be numbers from 0 to {settings.vocab_size - 1}, with commas: "
                f"{', '.join(map(str, wrong)) or 'there is none'}.",
                "tokens",
            )
        return TrainableTokensConfig(
            token_indices=sorted(ids),
            target_modules=[_embedding_name(network)],
            task_type="CAUSAL_LM",
        )


def _numbers(text: str) -> set[int]:
    try:
        return {int(part) for part in text.split(",") if part.strip()}
    except ValueError:
        raise InvalidParams("Tokens must be numbers with commas, for instance 1, 2.", "tokens") from None


def _embedding_name(network: "nn.Module") -> str:
    embedding = network.get_input_embeddings()
    return next(name for name, layer in network.named_modules() if layer is embedding)
