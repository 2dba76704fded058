"""Trains a Lightning module whose validation answers are the opposite: `... OUT`."""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from sweeps.callbacks.lightning import StopByVerdict

seed_everything(0)
x = torch.randn(64, 4)
y = (x[:, :1] > 0).float()


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)

    def loss(self, batch):
        return torch.nn.functional.binary_cross_entropy_with_logits(self.layer(batch[0]), batch[1])

    def training_step(self, batch, number):
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, number):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5)


callback = StopByVerdict()
trainer = Trainer(
    max_epochs=60, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
    default_root_dir=Path(sys.argv[1]).parent, callbacks=[callback, ModelCheckpoint(monitor="val_loss")],
)  # fmt: skip
trainer.fit(
    Module(),
    DataLoader(TensorDataset(x, y), batch_size=16),
    DataLoader(TensorDataset(x, 1 - y), batch_size=64),
)
found = {
    "stopped": callback.stopped_by.kind.value if callback.stopped_by else None,
    "verdict": callback.verdict.kind.value,
    "kept": callback.kept_epoch,
    "epochs": trainer.current_epoch,
    "checkpoint": callback.best_checkpoint.name if callback.best_checkpoint else None,
}
Path(sys.argv[1]).write_text(json.dumps(found))
