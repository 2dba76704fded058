"""What a hosted backend can do under its options: the profile's words in the contract's terms."""

from __future__ import annotations

from backends.contract import Capabilities, Hyperparameter
from backends.hosted.options import HostedOptions

_BASE_MODEL = Hyperparameter("base_model", "str", "the model to start from", default_rule="the option `model`")


def capabilities(options: HostedOptions) -> Capabilities:
    """Return the capabilities: those of the host's profile, narrowed or paced by the options."""
    host = options.profile
    return Capabilities(
        hyperparameters=(*(each.declared() for each in host.hyperparameters), _BASE_MODEL),
        metrics=tuple(dict.fromkeys(host.metrics.evaluation.values())),
        label_metrics=host.metrics.label_metrics,
        recommendation_scope=host.recommendation_scope,
        in_process=False,
        poll_s=host.jobs.poll_s if options.poll_s is None else options.poll_s,
        can_stop=True,
        can_predict=host.inference.deployment == "none" or options.deployment is not None,
        can_resume=False,
        evaluations_within_epoch=host.jobs.evaluations_within_epoch,
        priced=options.usd_per_million_tokens(options.model) is not None,
        # what the user knows of the account wins over what is generally said of the host
        max_concurrent=options.max_concurrent or host.jobs.max_concurrent,
    )
