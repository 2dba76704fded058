"""A complete metric of a plug-in: the share of predictions with at most so many words."""

from pydantic import BaseModel, ConfigDict

from backends.metrics.contract import MetricDeclaration, Scores


class WordCountOptions(BaseModel):
    """The options in YAML: `{brief: {words: 8}}`."""

    model_config = ConfigDict(extra="forbid")

    words: int = 7


class Brief:
    """The metric."""

    options_model = WordCountOptions

    def __init__(self, options):
        self.options = options

    @classmethod
    def prepare(cls, options, folder):
        """Return the options, which name no file."""
        return options

    @classmethod
    def describe(cls, options):
        """More brief answers are better; the value is a share."""
        return MetricDeclaration("maximize")

    @classmethod
    def open(cls, options, workspace):
        """Nothing to open."""
        return cls(options)

    def problems(self, answers):
        """Every reference will do."""
        return []

    def score(self, answers):
        """Score the answers."""
        values = tuple(float(len(text.split()) <= self.options.words) for text in answers.predictions)
        return Scores(sum(values) / len(values), values)

    def close(self):
        """Nothing to close."""
