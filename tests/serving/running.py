"""The service of one worker without HTTP, on a bundle or a registry and a store on disk."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from lanner.serving.deployment import ModelConfig, ServiceConfig
from lanner.serving.messages import Event, EventBatch, EventsAnswer, RecommendAnswer, RecommendRequest
from lanner.serving.service import LannerService
from lanner.serving.store import open_store
from lanner.serving.versions.alias_watcher import OneBundle
from lanner.serving.versions.registry import Registry

PATIENT = ServiceConfig(deadline_ms=5000, text_deadline_ms=5000, watch_seconds=0)


def service_of(
    path: Path, store: Path, config: ServiceConfig = PATIENT, variants: tuple[str, ...] = (), **options: Any
) -> LannerService:
    registry = Registry(path)
    versions = registry if registry.has_aliases else OneBundle(path)
    return LannerService(versions, open_store(str(store)), ModelConfig(variants), config, **options)


@asynccontextmanager
async def running(path: Path, store: Path, *arguments: Any, **options: Any) -> AsyncIterator[LannerService]:
    service = service_of(path, store, *arguments, **options)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def recommended(service: LannerService, user_id: str | None = None, **request: Any) -> list[str]:
    return ids(await service.recommend(RecommendRequest(user_id=user_id, **request)))


async def events(service: LannerService, user_id: str, *item_ids: str, **fields: Any) -> EventsAnswer:
    return await service.add_events(
        EventBatch(events=[Event(user_id=user_id, item_id=item_id, **fields) for item_id in item_ids])
    )


def ids(answer: RecommendAnswer) -> list[str]:
    return [item.item_id for item in answer.items]
