"""How much data is enough: a metric by the number of training examples, for one or more models."""
