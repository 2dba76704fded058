"""Trains a linear model with several processes: DDP or FSDP over gloo. Every process prints.

`--fail-on RANK` makes one process raise an error after its first epoch.
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    """Train, and print the mean loss of all processes after each epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--way", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--output", required=True)
    parser.add_argument("--fail-on", type=int, default=-1)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    if options.way == "fsdp":
        mesh = dist.init_device_mesh("cpu", (processes,))
        model = fully_shard(layers, mesh=mesh)
    else:
        model = DistributedDataParallel(layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.learning_rate)
    generator = torch.Generator().manual_seed(rank)
    for epoch in range(1, options.epochs + 1):
        inputs = torch.randn(16, 4, generator=generator)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        line = {"eval_loss": total.item() / processes, "epoch": float(epoch), "step": epoch, "rank": rank}
        print(line, flush=True)
        if rank == options.fail_on:
            raise RuntimeError(f"process {rank} was told to fail")
    with open(os.path.join(options.output, f"rank-{rank}.txt"), "w", encoding="utf-8") as file:
        file.write(f"{os.environ['MASTER_PORT']} {processes}")
    dist.barrier()  # a process that ends earlier can leave the others waiting in the next line
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
