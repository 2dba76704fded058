"""What a hosted backend can do under its options: the profile's words in the contract's terms."""

from __future__ import annotations

from backends.contract import Capabilities, Hyperparameter
from backends.hosted.options import HostedOptions

_BASE_MODEL = Hyperparameter("base_model", "str", "the model to start from", default_rule="the option `model`")


ASKED_METRICS = ("valid_accuracy", "valid_macro_f1")
"""What asking a trained model the validation set gives, for data with labels."""


def asks_labels(options: HostedOptions) -> bool:
    """Return whether trained models are asked the validation set: where they answer and the host scores no labels."""
    return options.ask_labels and answers(options) and not options.profile.metrics.label_metrics


def answers(options: HostedOptions) -> bool:
    """Return whether trained models answer: not where they have to be deployed first and nobody says where."""
    return options.profile.inference.deployment == "none" or options.deployment is not None


def capabilities(options: HostedOptions) -> Capabilities:
    """Return the capabilities: those of the host's profile, narrowed or paced by the options."""
    host = options.profile
    asked = ASKED_METRICS if asks_labels(options) else ()
    return Capabilities(
        hyperparameters=(*(each.declared() for each in host.hyperparameters), _BASE_MODEL),
        metrics=tuple(dict.fromkeys((*host.metrics.evaluation.values(), *asked))),
        label_metrics=(*host.metrics.label_metrics, *asked),
        recommendation_scope=host.recommendation_scope,
        in_process=False,
        poll_s=host.jobs.poll_s if options.poll_s is None else options.poll_s,
        can_stop=True,
        can_predict=answers(options),
        can_resume=False,
        evaluations_within_epoch=host.jobs.evaluations_within_epoch,
        priced=options.usd_per_million_tokens(options.model) is not None,
        # what the user knows of the account wins over what is generally said of the host
        max_concurrent=options.max_concurrent or host.jobs.max_concurrent,
    )
