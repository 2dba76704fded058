"""/v1/models: the base models, the fine-tuned models and their checkpoints; fine-tuned ones can be deleted."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import Response

from backends import codec
from backends.contract import BackendError, Handle
from sweeps.server.errors import ApiError, not_found, of_failure
from sweeps.server.job_updates import delete_copy
from sweeps.server.records import Checkpoint, Job, TunedModel
from sweeps.server.responses import ERRORS, answer
from sweeps.server.schemas import ModelDeleted, ModelList, ModelObject
from sweeps.server.service import Service

Name = Annotated[str, Path(min_length=1, max_length=256)]


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/models", tags=["models"], responses=ERRORS)
    store = service.store

    @routes.get("", response_model=ModelList)
    def list_models() -> Response:
        """List all models."""
        bases = [_base(model) for model in service.settings.models]
        return answer(ModelList(data=[*bases, *(_tuned(service, each) for each in store.all(TunedModel))]))

    @routes.get("/{model}", response_model=ModelObject)
    def retrieve_model(model: Name) -> Response:
        """Return a model."""
        if model in service.settings.models:
            return answer(_base(model))
        return answer(_tuned(service, known(service, model)))

    @routes.delete("/{model}", response_model=ModelDeleted)
    def delete_model(model: Name) -> Response:
        """Delete a fine-tuned model, or one of its checkpoints. Base models stay."""
        if model in service.settings.models:
            raise ApiError(403, "A base model cannot be deleted.", code="model_not_deletable", param="model")
        _delete(service, known(service, model))
        return answer(ModelDeleted(id=model, deleted=True))

    return routes


def known(service: Service, name: str) -> TunedModel:
    """Return a fine-tuned model. Raises ApiError (404) where there is none."""
    found = service.store.find(TunedModel, name)
    if found is None:
        error = not_found("model", name[:128], param="model", code="model_not_found")
        error.message = f"The model '{name[:128]}' does not exist"
        raise error
    return found


def _delete(service: Service, model: TunedModel) -> None:
    """Delete a model. With the job's own model go the checkpoints that the backend keeps beside it."""
    store = service.store
    is_checkpoint = ":ckpt-step-" in model.name
    if not is_checkpoint:
        job = store.find(Job, model.job_id)
        if job is not None and job.handle is not None:
            backend = service.trainer.open()
            try:
                backend.discard(codec.from_json(Handle, job.handle))
            except BackendError as error:
                raise of_failure(error.failure) from error
            finally:
                backend.close()
    with store.transaction():
        gone = [model]
        if not is_checkpoint:
            gone += [each for each in store.all(TunedModel, "job_id = ? AND NOT copied", model.job_id) if each != model]
        for each in gone:
            store.delete(TunedModel, each.name)
            for checkpoint in store.all(Checkpoint, "model = ?", each.name):
                store.delete(Checkpoint, checkpoint.id)
    delete_copy(model)


def _base(name: str) -> ModelObject:
    return ModelObject(id=name, created=0, owned_by="system")


def _tuned(service: Service, model: TunedModel) -> ModelObject:
    return ModelObject(id=model.name, created=model.created_at, owned_by=service.settings.organization)
