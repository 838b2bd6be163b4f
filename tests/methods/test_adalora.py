"""AdaLoRA's ranks: taken away on schedule, kept in the file, the same in plain PEFT."""

import pytest
import tiny
import torch
from tiny import context, language_model, logits, task

from playground.errors import AdapterError, InvalidParams
from playground.methods.adalora import AdaLoRA, AdaLoRAParams
from playground.training.adalora import RankBudget, singular_values

PARAMS = AdaLoRAParams(initial_rank=6, target_rank=2, epochs=4, batch_size=7, learning_rate=0.05)
LAYERS = 2 * 7


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adalora")
    return tiny.adapt(AdaLoRA(), PARAMS, folder)


def restored(finished, **changes):
    return AdaLoRA().restore(PARAMS, context(finished.context.folder, **changes)).model.model


def test_the_file_holds_the_target_rank_on_average_and_unevenly(finished):
    ranks = [len(value) for value in singular_values(restored(finished)).values()]
    assert len(ranks) == LAYERS and sum(ranks) == LAYERS * PARAMS.target_rank
    assert len(set(ranks)) > 1


def test_trained_parameters_are_those_at_the_start(finished):
    per_layer = 6 * ((32 + 32 + 1) * 2 + (32 + 16 + 1) * 2 + (32 + 48 + 1) * 3)
    assert finished.adapted.trainable_parameters == 2 * per_layer


def test_orthogonality_is_kept(finished, tmp_path):
    """The regularisation is added though the loop computes its own loss."""

    def distance(tried):
        rows = [p for name, p in tried.named_parameters() if ".lora_A." in name and len(p)]
        return sum(torch.dist(a @ a.T, torch.eye(len(a))).item() for a in rows) / len(rows)

    params = PARAMS.model_copy(update={"orthogonality": 0.0})
    free = tiny.adapt(AdaLoRA(), params, tmp_path)
    loose = AdaLoRA().restore(params, context(free.context.folder)).model.model
    assert distance(restored(finished)) < distance(loose)


def test_the_gradient_of_the_orthogonality_is_that_of_peft():
    network = AdaLoRA().wrap(PARAMS, language_model().model)
    hook = AdaLoRA().hook(PARAMS, network, 20)
    assert isinstance(hook, RankBudget)
    hook.before_step()
    ours = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    ids = torch.tensor([[2, 6, 7, 1]])
    network(input_ids=ids, labels=ids).loss.backward()
    theirs = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    config = network.active_peft_config
    config.orth_reg_weight = 0.0
    network(input_ids=ids, labels=ids).loss.backward()
    for name, p in network.named_parameters():
        if name in ours:
            torch.testing.assert_close(ours[name], theirs[name] - p.grad, rtol=1e-4, atol=1e-5)


def test_weights_kept_from_before_the_last_step_are_saved_as_they_were_tested(tmp_path):
    """Ranks that came back after they were masked must not be cut off by saving."""
    params = PARAMS.model_copy(update={"patience": 1, "learning_rate": 0.5})
    tried = tiny.adapt(AdaLoRA(), params, tmp_path)
    back = AdaLoRA().restore(params, context(tmp_path)).model.model
    torch.testing.assert_close(logits(back), logits(tried.adapted.model.model), rtol=1e-4, atol=1e-4)


def test_more_rank_than_there_was_is_refused(finished):
    params = PARAMS.model_copy(update={"initial_rank": 3, "target_rank": 1})
    network = AdaLoRA().wrap(params, language_model().model)
    with pytest.raises(AdapterError, match="does not fit"):
        AdaLoRA().read(network, finished.context.folder / "adapter")


def test_damaged_weights_are_refused(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(AdapterError, match="damaged"):
        AdaLoRA().read(AdaLoRA().wrap(PARAMS, language_model().model), tmp_path)


def test_ranks_that_cannot_shrink_are_refused():
    with pytest.raises(InvalidParams, match="smaller than the rank at the start"):
        AdaLoRAParams.parse({"initial_rank": 4, "target_rank": 4})


def test_too_few_steps_are_refused_before_the_start():
    with pytest.raises(InvalidParams, match="at least 10; these settings make 3") as refused:
        AdaLoRA().check(PARAMS.model_copy(update={"epochs": 1}), task())
    assert refused.value.field == "epochs"
