"""Describe a fine-tuned model, by address and format, for use without this backend."""

from __future__ import annotations

from backends.contract import BackendError, Dataset, Decoding, Failure, FailureKind
from backends.hosted.options import HostedOptions
from backends.model_packages.package import HostedPredictorSettings, ModelPackage, hosted_package


def package(model: str, base_model: str, dataset: Dataset, options: HostedOptions, decoding: Decoding) -> ModelPackage:
    """Return the package of `model`, which was trained from `base_model` on `dataset`.

    `decoding`: how it writes if the data set has no labels.

    Raises BackendError (user) for a host whose models answer only while they are deployed: this
    backend's deployments end with the sweep.
    """
    host, inference = options.profile, options.profile.inference
    if inference.deployment != "none" or host.client != "OpenAI":
        message = f"models of {host.title} answer only while they are deployed, and this backend ends its deployments"
        raise BackendError(Failure(FailureKind.USER, message, "Remove `champion:`, or use another host."))
    chat = options.is_chat(base_model)
    if chat:
        alternatives = inference.chat_alternatives if inference.chat_labels == "alternatives" else 0
    else:
        alternatives = 0 if inference.completion_labels == "text" else inference.completion_alternatives
    headers = {"OpenAI-Organization": options.organization, "OpenAI-Project": options.project}
    settings = HostedPredictorSettings(
        options.address,
        model,
        options.key_name,
        chat=chat,
        needs_key=host.needs_api_key,
        system_message=options.system_message,
        alternatives=alternatives,
        token_limit_field=inference.token_limit_field,
        extra_headers={name: value for name, value in headers.items() if value},
        generation={
            "max_tokens": decoding.max_tokens,
            "stops": [stop for stop in dict.fromkeys((dataset.stop, *decoding.stop)) if stop],
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": 0,
        },
        extra_body={"labels": list(dataset.labels)} if host.jobs.task_extension and not chat else {},
    )
    return hosted_package(settings, dataset)
