"""Will it fit? The memory that training a transformer needs, forecast by formulas before it starts.

`architecture` reads the shape of a model from its config.json, `training_memory` has the formulas,
and `forecast` is what backends answer and plans show. Loads no torch.
"""
