import pytest
import torch
from peft import LoraConfig, get_peft_model

from playground.training.batches import pack
from playground.training.fused_lora import fuse, unfuse
from playground.training.text import row_loss


def with_lora(model, **changes):
    values = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    wrapped = get_peft_model(model, LoraConfig(**(values | changes)))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return wrapped


def loss_and_gradients(model, examples):
    (row,) = pack(examples, 5, 1000, torch.device("cpu"), torch.float64)
    model.zero_grad(set_to_none=True)
    loss = row_loss(model, row)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("rank", [1, 8], ids=["beside the weight", "added to the weight"])
@pytest.mark.parametrize("bias", [False, True])
def test_same_loss_and_gradients_as_peft(make_model, make_examples, bias, rank):
    # float64: in float32 the order of summing up, which differs by processor, shows
    model = with_lora(make_model(attention_bias=bias, mlp_bias=bias), r=rank).double()
    examples = make_examples()
    wanted, theirs = loss_and_gradients(model, examples)
    assert fuse(model) == 2 * 7
    found, ours = loss_and_gradients(model, examples)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert theirs.keys() == ours.keys() and len(theirs) == 2 * 2 * 7
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    unfuse(model)
    assert not any("forward" in layer.__dict__ for layer in model.modules())


def test_gradients_are_those_of_finite_differences():
    from playground.training.fused_lora import _LowRankLinear, _MergedLinear

    torch.manual_seed(0)
    x, down, up = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 4), (2, 4), (3, 2))
    )
    weight, bias = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    start = torch.randn(2, 4, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    for frozen in ((None, None), start):
        torch.autograd.gradcheck(
            lambda x, a, b, frozen=frozen: _LowRankLinear.apply(x, lambda: weight, bias, a, b, *frozen, 1.7),
            (x, down, up),
        )
    torch.autograd.gradcheck(
        lambda x, a, b: _MergedLinear.apply(x, weight, bias, a, b, 1.7, None), (x, down, up)
    )


@pytest.mark.parametrize("rank", [1, 8])
def test_under_autocast_it_rounds_as_peft_does(make_model, rank):
    """Its distance from float32's answers is at most twice that of PEFT's under autocast."""
    layer = with_lora(make_model(), r=rank).base_model.model.model.layers[0].mlp.up_proj
    torch.manual_seed(0)
    x = torch.randn(2, 5, layer.in_features, requires_grad=True)
    learnt = [layer.lora_A["default"].weight, layer.lora_B["default"].weight, x]

    def answers(half):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = layer(x)
        assert y.dtype == (torch.bfloat16 if half else torch.float32)
        return y.float(), *torch.autograd.grad(y.float().square().sum(), learnt)

    exact, theirs = answers(False), answers(True)
    assert fuse(layer) == 1
    for wanted, rounded, found in zip(exact, theirs, answers(True), strict=True):
        assert (found - wanted).norm() < 2 * (rounded - wanted).norm() + 1e-6
        assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_switching_off_still_works(make_model, make_examples):
    plain = make_model()
    ids = torch.tensor([make_examples(1)[0].ids])
    wanted = plain(ids).logits
    model = with_lora(plain)
    fuse(model)
    assert not torch.allclose(model(ids).logits, wanted, atol=1e-2)
    with model.disable_adapter():
        torch.testing.assert_close(model(ids).logits, wanted)


@pytest.mark.parametrize("changes", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_other_layers_stay_as_they_are(make_model, changes):
    assert fuse(with_lora(make_model(attention_bias=True, mlp_bias=True), **changes)) == 0
