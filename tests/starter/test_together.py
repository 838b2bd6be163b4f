"""Several processes training one network."""

import os
import subprocess
import sys

import torch

SCRIPT = """
import sys, torch
from pathlib import Path
from playground.starter import optimise

optimise.join()
torch.manual_seed(optimise.rank())  # they start apart: the first one's weights must count
network = torch.nn.Linear(3, 1)
def loss_of(draw):
    return (network(torch.randn(4, 3, generator=draw.torch)) - 1).square().mean()
folder = Path(sys.argv[1])
end = optimise.optimise("x", network, loss_of, steps=5, rate=0.1, folder=folder, log=lambda line: None)
torch.save(end.state_dict(), folder / f"end-{optimise.rank()}.pt")
"""


def test_two_processes_end_with_the_same_network_and_one_checkpoint(tmp_path):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "PYTHONPATH": ".",
    }
    running = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], env={**common, "RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(timeout=100) for process in running] == [0, 0]
    one, other = (torch.load(tmp_path / f"end-{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(one["weight"], other["weight"])
    saved = torch.load(tmp_path / "x.pt", weights_only=True)
    assert saved["step"] == 5
    assert torch.equal(saved["network"]["weight"], one["weight"])
