"""A Keras script: regression, with CSVLogger and ModelCheckpoint."""

import argparse

import keras
import numpy


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--output_dir", required=True)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    inputs = numpy.random.default_rng(0).normal(size=(96, 8)).astype("float32")
    targets = inputs @ numpy.arange(8.0, dtype="float32")
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(options.lr), loss="mse")
    model.fit(
        inputs[:64],
        targets[:64],
        batch_size=16,
        epochs=options.epochs,
        validation_data=(inputs[64:], targets[64:]),
        callbacks=[
            keras.callbacks.CSVLogger(f"{options.output_dir}/log.csv"),
            keras.callbacks.ModelCheckpoint(f"{options.output_dir}/epoch-{{epoch:02d}}.keras"),
        ],
        verbose=0,
    )


if __name__ == "__main__":
    main()
