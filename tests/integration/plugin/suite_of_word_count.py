"""The test that the author of a metric writes."""

from dataclasses import replace

from word_count_metric import Brief

from backends.testing import MetricContract


class TestBrief(MetricContract):
    metric_type = Brief

    def options(self):
        return {"words": 9}

    def wrong_answers(self):
        right = self.right_answers()
        return replace(right, predictions=tuple(f"{text} and on and on and on" for text in right.predictions))
