"""What answers with a trained model elsewhere: `*_predictor.py` travel with a registered model and stand alone.

They import nothing of this product. Each has `load(folder, facts)`, which returns an object whose `answer(lines)` gives
for each line of a data file the label's text and the log-probability of every label in the order of `facts["labels"]`,
or None where the place that answers does not tell.
"""

from backends.served.package import Package, Packager

__all__ = ["Package", "Packager"]
