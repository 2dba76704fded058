"""A training script as people write it: argparse, PyTorch, a dict line an epoch, checkpoints.

With `--wait_for` it waits after each epoch but the first until that file is there: a long training.
"""

import argparse
import json
import time
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--wait_for", type=Path)
    parser.add_argument("--loading_s", type=float, default=0.005, help="how long a batch takes to load")
    options = parser.parse_args()

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(options.seed)
    inputs = torch.randn(64, 8, generator=generator)
    targets = inputs @ torch.arange(8.0).unsqueeze(1)
    model = torch.nn.Linear(8, 1)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr)
    step = 0
    if options.resume is not None:
        saved = torch.load(options.resume)
        model.load_state_dict(saved["model"])
        step = saved["step"]

    options.output_dir.mkdir(parents=True, exist_ok=True)
    for epoch in range(step // 4, options.epochs):
        for batch in range(4):
            time.sleep(options.loading_s)
            part = slice(16 * batch, 16 * batch + 8)
            for group in optimizer.param_groups:  # the rate rises during the first half of the training
                group["lr"] = options.lr * min(1.0, (step + 1) / (2 * options.epochs))
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(inputs[part]), targets[part])
            loss.backward()
            optimizer.step()
            step += 1
            print(json.dumps({"epoch": epoch, "step": step, "loss": loss.item(), "lr": group["lr"]}), flush=True)
        with torch.no_grad():
            valid = torch.cat([inputs[start : start + 8] for start in range(8, 64, 16)])
            wanted = valid @ torch.arange(8.0).unsqueeze(1)
            valid_loss = torch.nn.functional.mse_loss(model(valid), wanted).item()
        torch.save({"model": model.state_dict(), "step": step}, options.output_dir / f"checkpoint-{step}.pt")
        print(json.dumps({"epoch": epoch, "step": step, "val_loss": valid_loss}), flush=True)
        while epoch > 0 and options.wait_for is not None and not options.wait_for.exists():
            time.sleep(0.05)


if __name__ == "__main__":
    main()
