"""A PyTorch Lightning script: regression, the CSV log, a checkpoint an epoch."""

import argparse

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset


class Regression(lightning.LightningModule):
    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.layer = torch.nn.Linear(8, 1)

    def loss_of(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        loss = self.loss_of(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        self.log("val_loss", self.loss_of(batch))

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        warmup = self.trainer.estimated_stepping_batches // 2
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--ckpt_path")
    parser.add_argument("--mlflow", action="store_true")
    options = parser.parse_args()

    if options.mlflow:
        import mlflow

        mlflow.pytorch.autolog(log_models=False)
    torch.set_num_threads(1)
    lightning.seed_everything(0, verbose=False)
    inputs = torch.randn(96, 8)
    data = TensorDataset(inputs, inputs @ torch.arange(8.0).unsqueeze(1))
    train, valid = torch.utils.data.random_split(data, [64, 32])
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=options.epochs,
        default_root_dir=options.output_dir,
        logger=[CSVLogger(options.output_dir, "csv"), TensorBoardLogger(options.output_dir, "tensorboard")],
        callbacks=[ModelCheckpoint(f"{options.output_dir}/checkpoints", save_top_k=-1)],
        log_every_n_steps=2,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loaders = DataLoader(train, batch_size=16, shuffle=True), DataLoader(valid, batch_size=16)
    trainer.fit(Regression(options.lr), *loaders, ckpt_path=options.ckpt_path)


if __name__ == "__main__":
    main()
