"""What a step without numbers moves, counted on functions whose bytes are known."""

import pytest
import torch
from torch import nn

from playground.training.dry_step import dry_run

WORDS, WIDTH, TOKENS = 50, 8, 6
STATES = 4 * TOKENS * WIDTH  # bytes


@pytest.fixture
def network():
    with torch.device("meta"):
        return nn.Sequential(nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)).eval()


@pytest.mark.parametrize(
    ("work", "moved"),
    [
        (lambda x: x.relu(), 2 * STATES),
        (lambda x: x + x.view(WIDTH, TOKENS).view(TOKENS, WIDTH), 3 * STATES),
        (lambda x: x.relu_(), 2 * STATES),
        (lambda x: x.sum(), STATES + 4),
        (lambda x: (x.T, x[2:], torch.empty_like(x), x.new_empty(9)), 0),
        (lambda x: x @ x.T, 0),
        (lambda x: nn.functional.scaled_dot_product_attention(x, x, x), 0),
    ],
    ids=[
        "each number",
        "two of them",
        "in place",
        "a sum",
        "views and untouched room",
        "products",
        "attention",
    ],
)
def test_bytes_moved_are_what_operations_read_and_write_beside_products(network, work, moved):
    states = torch.empty(TOKENS, WIDTH, device="meta")
    found = dry_run(network, lambda: work(states), learn=False)
    assert found.forward_moved == found.moved == moved


def test_an_embedding_moves_its_tokens_and_backwards_its_whole_gradient(network):
    table, _ = network
    tokens = torch.zeros(TOKENS, dtype=torch.long, device="meta")
    found = dry_run(network, lambda: table(tokens).sum())
    assert found.forward_moved == 2 * STATES + STATES + 4
    assert found.moved - found.forward_moved >= 4 * WORDS * WIDTH
