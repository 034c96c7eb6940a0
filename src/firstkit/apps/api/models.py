# SPDX-License-Identifier: Apache-2.0
"""`/v1/models`: OpenAI's listing of what the caller may use and how each model is doing; answered from memory alone."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from fastapi import APIRouter

from firstkit.apps.api.callers import AnyCaller, Caller
from firstkit.apps.api.memory import Known, Memory
from firstkit.core.access import bare
from firstkit.core.catalog import Model
from firstkit.core.errors import Forbidden, NotFound
from firstkit.core.topology import Heat, ModelStatus

_PATH = re.compile(r"(?<!\w)/[^\s'\"`,;()]+")


def find_model(known: Known, caller: Caller, asked: str) -> Model:
    """Find a model by name or alias; NotFound names the nearest that the caller may use."""
    model = known.directory.by_name.get(asked)
    if model is not None and caller.may_use(model):
        return model
    if model is not None and caller.may_see(model):
        raise Forbidden(f"this key may not use the model {model.name}", code="model_not_allowed", param="model")
    close = known.directory.suggestions(asked, caller.principal)
    hint = f"; did you mean {' or '.join(close)}?" if close else "; GET /v1/models lists those you may use"
    raise NotFound(f"there is no model {asked[:100]!r}{hint}", code="model_not_found", param="model")


def aliases(known: Known, model: Model) -> list[str]:
    """List the further names that lead to the model."""
    names = [*model.aliases, bare(model.name)]
    return [name for name in dict.fromkeys(names) if name != model.name and known.directory.by_name.get(name) is model]


def notices(status: ModelStatus) -> list[str]:
    """Say what a user of the model should know beyond its state."""
    if status.held:
        why = f": {status.detail}" if status.detail else ""
        return [f"not started at present ({status.reason}){why}; an operator has to act", *status.notices]
    return list(status.notices)


def shown_status(known: Known, model: Model, caller: Caller) -> ModelStatus:
    """Return how a model is doing as this caller may see it: paths on clusters are the operators' business."""
    status = known.status(model.name)
    if caller.operator:
        return status
    return replace(status, detail=_PATH.sub("…", status.detail), text=_PATH.sub("…", status.text))


def model_document(known: Known, model: Model, caller: Caller, *, age_s: float) -> dict[str, Any]:
    """Describe one model in OpenAI's shape with the extra field `first`."""
    status = shown_status(known, model, caller)
    length = model.max_model_len or status.max_model_len
    to_hot_s = None if status.to_hot_s is None else max(0.0, status.to_hot_s - age_s)
    return {
        "id": model.name,
        "object": "model",
        "created": int(known.applied_at),
        "owned_by": "firstkit",
        "max_model_len": length,
        "context_length": length,
        "first": {
            "state": status.heat,
            "reason": status.reason,
            "detail": status.detail,
            "held": status.held,
            "clusters": list(status.clusters),
            "for_s": round(status.for_s + age_s, 3),
            "waiting": known.waiting.get(model.name, 0),
            "time_to_hot_s": 0.0 if status.heat is Heat.HOT else to_hot_s and round(to_hot_s, 3),
            "fraction": status.fraction,
            "progress": status.text,
            "endpoints": sorted(status.paths),
            "aliases": aliases(known, model),
            "notices": notices(status),
        },
    }


def models_router(memory: Memory) -> APIRouter:
    """Make the two routes."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("", summary="List the models you may use")
    async def models(caller: AnyCaller) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        known = memory.offered()
        age_s = memory.age_s()
        usable = [model for model in known.catalog.models.values() if caller.may_use(model)]
        return {"object": "list", "data": [model_document(known, model, caller, age_s=age_s) for model in usable]}

    @router.get("/{model:path}", summary="Tell about one model, by name or alias")
    async def model(model: str, caller: AnyCaller) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        known = memory.offered()
        return model_document(known, find_model(known, caller, model), caller, age_s=memory.age_s())

    return router
