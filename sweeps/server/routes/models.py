"""/v1/models: list base and fine-tuned models and checkpoints; delete fine-tuned models."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import Response

from sweeps.server.errors import ApiError
from sweeps.server.job_updates import delete_checkpoint_copy
from sweeps.server.records import Checkpoint, TunedModel
from sweeps.server.routes.responses import ERROR_RESPONSES, json_response
from sweeps.server.routes.strict_routes import StrictRoute
from sweeps.server.schemas.models import ModelDeleted, ModelList, ModelObject
from sweeps.server.service import Service

ModelName = Annotated[str, Path(min_length=1, max_length=256)]


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(route_class=StrictRoute, prefix="/v1/models", tags=["models"], responses=ERROR_RESPONSES)
    store = service.store

    @routes.get("", response_model=ModelList)
    def list_models() -> Response:
        """List all models."""
        base_models = [_base_model_object(name) for name in service.settings.models]
        tuned_models = [_tuned_model_object(service, model) for model in store.all(TunedModel)]
        return json_response(ModelList(data=[*base_models, *tuned_models]))

    @routes.get("/{model}", response_model=ModelObject)
    def retrieve_model(model: ModelName) -> Response:
        """Return a model."""
        if model in service.settings.models:
            return json_response(_base_model_object(model))
        return json_response(_tuned_model_object(service, find_tuned_model(service, model)))

    @routes.delete("/{model}", response_model=ModelDeleted)
    def delete_model(model: ModelName) -> Response:
        """Delete a fine-tuned model, or one of its checkpoints. Base models cannot be deleted."""
        if model in service.settings.models:
            raise ApiError(403, "A base model cannot be deleted.", code="model_not_deletable", param="model")
        _delete(service, find_tuned_model(service, model))
        return json_response(ModelDeleted(id=model, deleted=True))

    return routes


def find_tuned_model(service: Service, name: str) -> TunedModel:
    """Return a fine-tuned model. Raises ApiError (404) if there is none."""
    model = service.store.find(TunedModel, name)
    if model is None:
        raise ApiError(404, f"The model '{name[:128]}' does not exist", param="model", code="model_not_found")
    return model


def _delete(service: Service, model: TunedModel) -> None:
    """Delete a model.

    Deleting a job's own model also deletes the checkpoints that the backend keeps beside it. The
    records go first. The rest follows in the background, even if the server dies in between.
    """
    store = service.store
    is_checkpoint = ":ckpt-step-" in model.name
    with store.transaction():
        models = [model]
        if not is_checkpoint:
            of_job = store.all(TunedModel, "job_id = ? AND NOT copied", model.job_id)
            models += [other for other in of_job if other != model]
            store.add_intent("discard", model.job_id)
        for deleted in models:
            store.delete(TunedModel, deleted.name)
            for checkpoint in store.all(Checkpoint, "model = ?", deleted.name):
                store.delete(Checkpoint, checkpoint.id)
    if not is_checkpoint:
        service.runner.clean_up_soon()
    delete_checkpoint_copy(model)


def _base_model_object(name: str) -> ModelObject:
    return ModelObject(id=name, created=0, owned_by="system")


def _tuned_model_object(service: Service, model: TunedModel) -> ModelObject:
    return ModelObject(id=model.name, created=model.created_at, owned_by=service.settings.organization)
