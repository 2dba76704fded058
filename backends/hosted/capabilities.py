"""The capabilities of a hosted backend, from the host's profile and the user's options."""

from __future__ import annotations

from backends.contract import Capabilities, Hyperparameter
from backends.hosted.options import HostedOptions

_BASE_MODEL = Hyperparameter("base_model", "str", "the model to start from", default_rule="the option `model`")

MODEL_EVALUATION_METRICS = ("valid_accuracy", "valid_macro_f1")
"""The scores of a trained model on a validation set with labels; see `model_evaluation`."""


def asks_for_labels(options: HostedOptions) -> bool:
    """Return whether the backend itself asks trained models for the labels of the validation set.

    It does so unless the option `ask_labels` is off, if the host does not score labels and models
    can be queried.
    """
    return options.ask_labels and can_predict(options) and not options.profile.metrics.label_metrics


def can_predict(options: HostedOptions) -> bool:
    """Return whether trained models can be queried: at once, or after a configured deployment."""
    return options.profile.inference.deployment == "none" or options.deployment is not None


def capabilities_of(options: HostedOptions) -> Capabilities:
    """Return the capabilities of the host's profile, with the limits of the options."""
    host = options.profile
    own_metrics = MODEL_EVALUATION_METRICS if asks_for_labels(options) else ()
    return Capabilities(
        hyperparameters=(*(declaration.declared() for declaration in host.hyperparameters), _BASE_MODEL),
        metrics=tuple(dict.fromkeys((*host.metrics.evaluation.values(), *own_metrics))),
        label_metrics=(*host.metrics.label_metrics, *own_metrics),
        recommendation_scope=host.recommendation_scope,
        in_process=False,
        poll_s=host.jobs.poll_s if options.poll_s is None else options.poll_s,
        can_stop=True,
        can_predict=can_predict(options),
        can_resume=False,
        evaluations_within_epoch=host.jobs.evaluations_within_epoch,
        priced=options.usd_per_million_tokens(options.model) is not None,
        # The user knows the account, so the user's number wins over the profile's general one.
        max_concurrent=options.max_concurrent or host.jobs.max_concurrent,
        # Whoever names task metrics asks for the queries that they need, without a further option.
        task_metrics=can_predict(options),
        task_metrics_at_end=True,
    )
