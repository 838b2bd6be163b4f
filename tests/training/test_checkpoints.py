"""A checkpoint that is read back leaves nothing of its file in memory."""

from pathlib import Path

import pytest
import torch

from playground.training import checkpoints
from playground.training.checkpoints import State


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not say what is mapped")
def test_a_checkpoint_that_was_read_is_not_mapped_any_more(make_model, tmp_path):
    def made():
        model = make_model()
        return model, torch.optim.AdamW(model.parameters(), lr=1e-2)

    model, optimizer = made()
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()
    path = checkpoints.save(tmp_path, State("f", step=1), model, optimizer)
    again, fresh = made()
    state = checkpoints.load(path, "f", again, fresh)
    assert state.step == 1
    assert str(path) not in Path("/proc/self/maps").read_text()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(optimizer.state[one]["exp_avg_sq"], fresh.state[other]["exp_avg_sq"])
