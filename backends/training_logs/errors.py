"""The error for a training log that cannot be read."""

HINT = (
    "use column names such as train_loss, valid_loss, valid_accuracy, and epoch or step; "
    "docs/guide/fit.md lists all names"
)


class TrainingLogError(Exception):
    """A training log cannot be read: the place, the problem there, and the remedy (`hint`)."""

    def __init__(self, place: str, message: str, hint: str = HINT) -> None:
        super().__init__(f"{place}: {message}")
        self.place = place
        self.message = message
        self.hint = hint
