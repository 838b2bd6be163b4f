"""LoRA's refinements, starts and choices of layers: each is kept as an adapter that plain PEFT loads."""

import dataclasses

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import context, language_model, logits, task

from playground.errors import InvalidParams
from playground.methods.lora import LoRA, LoRAParams
from playground.training import checkpoints

PER_LAYER = 4 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 48) * 3)  # rank 4 beside all seven linear layers
OUTPUTS = 32 * 2 + 16 * 2 + 48 * 2 + 32  # DoRA's magnitudes of one layer

OPTIONS = {
    "rslora": ({"rslora": True}, 2 * PER_LAYER),
    "dora": ({"dora": True}, 2 * (PER_LAYER + OUTPUTS)),
    "gaussian": ({"init": "gaussian"}, 2 * PER_LAYER),
    "orthogonal": ({"init": "orthogonal"}, 2 * PER_LAYER),
    "pissa": ({"init": "pissa"}, 2 * PER_LAYER),
    "pissa-exact": ({"init": "pissa-exact", "rslora": True, "dropout": 0.1}, 2 * PER_LAYER),
    "olora": ({"init": "olora"}, 2 * PER_LAYER),
    "eva": ({"init": "eva"}, 2 * PER_LAYER),
    "lora-plus": ({"lora_plus": 16, "learning_rate": 1e-3}, 2 * PER_LAYER),
    "named": ({"layers": "by name", "modules": " q_proj, v_proj,"}, 2 * 4 * ((32 + 32) + (32 + 16))),
    "top": ({"top_layers": 1}, PER_LAYER),
    "top-attention": ({"top_layers": 1, "layers": "attention"}, 4 * ((32 + 32) * 2 + (32 + 16) * 2)),
}


def options(name):
    values = {"rank": 4, "alpha": 8, "learning_rate": 1e-2, "epochs": 2, "batch_size": 7, **OPTIONS[name][0]}
    return LoRAParams.parse(values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished runs by option, each made once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = tiny.adapt(LoRA(), options(name), tmp_path_factory.mktemp(name))
        return made[name]

    return of


@pytest.fixture(params=OPTIONS)
def option(request):
    return request.param


def test_counts_are_exact(finished, option):
    adapted = finished(option).adapted
    base = sum(parameter.numel() for parameter in language_model().model.parameters())
    assert adapted.trainable_parameters == OPTIONS[option][1]
    assert adapted.total_parameters == base + OPTIONS[option][1]


def test_restored_merged_and_plain_peft_give_the_same_logits(finished, option):
    from peft import PeftModel

    tried = finished(option)
    merged = logits(tried.adapted.model.model)
    assert not torch.allclose(merged, logits(language_model().model), atol=1e-2)
    restored = LoRA().restore(options(option), context(tried.context.folder)).model.model
    torch.testing.assert_close(logits(restored), merged, rtol=1e-4, atol=1e-4)
    plain = PeftModel.from_pretrained(language_model().model, tried.context.folder / "adapter")
    torch.testing.assert_close(logits(plain), merged, rtol=1e-4, atol=1e-4)


def test_switched_off_it_is_the_base_model(finished, option):
    restored = LoRA().restore(options(option), context(finished(option).context.folder)).model.model
    LoRA().switch(restored, False)
    assert torch.equal(logits(restored), logits(language_model().model))


def test_the_estimate_counts_the_same_without_weights(option):
    with torch.device("meta"):
        skeleton = type(language_model().model)(language_model().model.config)
        wrapped = LoRA().wrap(options(option), skeleton)
    assert sum(value.numel() for value in checkpoints.trainable(wrapped).values()) == OPTIONS[option][1]


def test_resuming_gives_the_same_adapter(finished, option, tmp_path, monkeypatch):
    plan = LoRA.plan
    monkeypatch.setattr(
        LoRA,
        "plan",
        lambda *arguments: dataclasses.replace(plan(*arguments), checkpoint_seconds=0.0),
    )
    generator = LoRA().adapt(options(option), context(tmp_path))
    while len(checkpoints.checkpoints(tmp_path)) < 2:
        next(generator)
    generator.close()
    tiny.adapt(LoRA(), options(option), tmp_path, resume=True)
    found, wanted = (
        load_file(folder / "adapter/adapter_model.safetensors")
        for folder in (tmp_path, finished(option).context.folder)
    )
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("init", ["pissa", "pissa-exact", "olora", "orthogonal", "gaussian", "eva"])
def test_every_start_answers_like_the_base_model(init, tmp_path):
    params = LoRAParams(rank=4, init=init)
    given = context(tmp_path)
    given.model.model = network = LoRA().wrap(params, given.model.model)
    LoRA().prepare(params, network, given)
    torch.testing.assert_close(logits(network), logits(language_model().model), rtol=1e-5, atol=1e-5)
    trained = checkpoints.trainable(network)
    if init not in ("gaussian", "eva"):
        assert all(value.abs().sum() > 0 for value in trained.values())


@pytest.mark.parametrize(("init", "theirs"), [("pissa-exact", "pissa"), ("olora", "olora")])
def test_the_start_learns_as_pefts_own_on_a_changed_base(init, theirs):
    from peft import LoraConfig, get_peft_model

    values = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    config = LoraConfig(r=4, lora_alpha=8, init_lora_weights=theirs, **values)
    peft = get_peft_model(language_model().model, config)
    ours = LoRA().wrap(LoRAParams(rank=4, alpha=8, init=init), language_model().model)
    for fused in (False, True):
        LoRA().faster(ours, fused)
        for network in (peft, ours):
            network.zero_grad()
            network(input_ids=torch.tensor([[2, 6, 7, 1, 3]])).logits.logsumexp(-1).sum().backward()
        wanted = {name: value for name, value in peft.named_parameters() if value.requires_grad}
        assert wanted.keys() == checkpoints.trainable(ours).keys()
        for name, value in checkpoints.trainable(ours).items():
            torch.testing.assert_close(value, wanted[name], msg=name)
            torch.testing.assert_close(value.grad, wanted[name].grad, rtol=1e-3, atol=1e-4, msg=name)


def test_eva_takes_the_main_directions_of_the_inputs(tmp_path):
    given = context(tmp_path)
    params = LoRAParams(rank=4, init="eva")
    given.model.model = network = LoRA().wrap(params, given.model.model)
    LoRA().prepare(params, network, given)
    layer = network.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    seen = []
    handle = layer.base_layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    for item in given.task.train:
        ids = given.model.encode(given.task.messages(item.input))
        network(input_ids=torch.tensor([ids]))
    handle.remove()
    rows = torch.cat([one.reshape(-1, 32) for one in seen])
    rows = rows - rows.mean(0)
    directions = layer.lora_A["default"].weight
    random = torch.linalg.qr(torch.randn(32, 4))[0].T
    best = torch.linalg.svdvals(rows)[:4].square().sum()
    assert (rows @ directions.T).square().sum() > 0.9 * best > 1.5 * (rows @ random.T).square().sum()


def test_lora_plus_learns_b_faster():
    network = LoRA().wrap(LoRAParams(), language_model().model)
    (slow, one), (fast, ratio) = LoRA().groups(LoRAParams(lora_plus=16), network)
    names = {id(value): name for name, value in network.named_parameters()}
    assert all("lora_A" in names[id(value)] for value in slow) and one == 1
    assert all("lora_B" in names[id(value)] for value in fast) and ratio == 16
    assert len(slow) == len(fast) == 14
    assert LoRA().groups(LoRAParams(), network) is None


def test_lora_plus_moves_b_further(finished, tmp_path):
    values = options("lora-plus").model_dump()
    plain = tiny.adapt(LoRA(), LoRAParams.parse(values | {"lora_plus": 1}), tmp_path)
    slow, fast = (
        load_file(tried.context.folder / "adapter/adapter_model.safetensors")
        for tried in (plain, finished("lora-plus"))
    )
    size = {name: fast[name].norm() / slow[name].norm() for name in slow if "lora_B" in name}
    assert all(ratio > 3 for ratio in size.values())


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"dora": True, "init": "pissa"}, "DoRA cannot be kept"),
        ({"init": "orthogonal", "rank": 5}, "even rank, not 5. Choose 6"),
        ({"layers": "by name"}, "Write the names"),
    ],
)
def test_options_that_exclude_each_other_are_refused(values, match):
    with pytest.raises(InvalidParams, match=match):
        LoRA().check(LoRAParams.parse(values), task())


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (
            {"layers": "by name", "modules": "q_proj, query"},
            "no linear layer called query. It has: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj",
        ),
        ({"top_layers": 3}, "has 2 blocks"),
        ({"init": "pissa", "rank": 17}, "k_proj has only 16 directions. Lower the rank to 16"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(values, match):
    with pytest.raises(InvalidParams, match=match):
        LoRA().wrap(LoRAParams.parse(values), language_model().model)


def test_eva_refuses_a_rank_above_the_tokens(tmp_path):
    given = context(tmp_path)
    given.task = dataclasses.replace(given.task, train=given.task.train[:1])
    params = LoRAParams(rank=16, init="eva")
    network = LoRA().wrap(params, given.model.model)
    with pytest.raises(InvalidParams, match="lower the rank"):
        LoRA().prepare(params, network, given)


def test_an_adapter_from_before_a_parameter_existed_still_loads(finished, tmp_path):
    import json

    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in (finished("top").context.folder / "adapter").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    about = json.loads((folder / "playground.json").read_text())
    del about["params"]["dora"]
    (folder / "playground.json").write_text(json.dumps(about))
    LoRA().restore(options("top"), context(tmp_path))


@pytest.mark.parametrize("init", ["pissa", "pissa-exact", "orthogonal", "default"])
def test_layers_that_store_their_weight_transposed(init, tmp_path):
    from peft import PeftModel
    from transformers import GPT2Config, GPT2LMHeadModel

    def base():
        torch.manual_seed(0)
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 32}
        return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.2)).eval()

    params = LoRAParams(rank=4, init=init)
    network = LoRA().wrap(params, base()).eval()
    torch.testing.assert_close(logits(network), logits(base()), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for value in checkpoints.trainable(network).values():
            value += 0.1
    wanted = logits(network)
    assert not torch.allclose(wanted, logits(base()), atol=1e-2)
    LoRA().write(network, tmp_path)
    read = LoRA().frame(params, base()).eval()
    LoRA().read(read, tmp_path)
    plain = PeftModel.from_pretrained(base(), tmp_path)
    for found in (read, plain, LoRA().merge(network)):
        torch.testing.assert_close(logits(found), wanted, rtol=1e-3, atol=1e-3)


def test_olora_says_that_it_cannot_start_from_transposed_weights():
    from transformers import GPT2Config, GPT2LMHeadModel

    network = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=4, n_positions=64, vocab_size=32))
    with pytest.raises(InvalidParams, match="transposed weights"):
        LoRA().wrap(LoRAParams(rank=4, init="olora"), network)
