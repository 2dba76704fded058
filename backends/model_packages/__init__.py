"""Packages of a trained model that predict without its backend and without this software.

A package holds the model's files, the settings, and one of the `*_predictor.py` modules, which
import nothing of this software. Each of these modules has `load(folder, settings)`. It returns an
object whose `predict(lines)` returns, for each line of a data file, the text of the predicted label
and the log-probabilities of all labels in the order of `settings["labels"]`, or None instead of
these if the host does not report them. Without labels it returns a generated text, and None.
`text_generation` and `chat_text` travel with the models in the transformers layout: they generate
for them, and write the conversations that they read.

The registry copies the predictor module into every registered model, so a change here never alters
a model that is already registered.
"""

from backends.model_packages.package import ModelPackage, SupportsPackaging

__all__ = ["ModelPackage", "SupportsPackaging"]
