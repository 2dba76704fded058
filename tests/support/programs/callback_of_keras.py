"""Trains a Keras model whose validation answers are the opposite: `callback_of_keras.py OUT`."""

import json
import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np

from sweeps.callbacks.keras import StopByVerdict

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
y = (x[:, 0] > 0).astype("float32")
model = keras.Sequential([keras.layers.Dense(1, activation="sigmoid", kernel_initializer="zeros")])
model.compile(optimizer=keras.optimizers.SGD(0.5), loss="binary_crossentropy")
callback = StopByVerdict(restore_best_weights=True)
history = model.fit(x, y, validation_data=(x, 1 - y), epochs=60, verbose=0, callbacks=[callback])
found = {
    "stopped": callback.stopped_by.kind.value if callback.stopped_by else None,
    "verdict": callback.verdict.kind.value,
    "kept": callback.kept_epoch,
    "epochs": len(history.epoch),
    "validation": history.history["val_loss"],
    "restored": float(model.evaluate(x, 1 - y, verbose=0)),
}
Path(sys.argv[1]).write_text(json.dumps(found))
