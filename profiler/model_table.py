"""The shipped models as records: what is counted, what is published, and the difference."""

from __future__ import annotations

from typing import Any

from specfiles.strict import plain_data
from workloads.catalogue import MODELS, load_model
from workloads.phases import Setting, parameters


def model_records() -> list[dict[str, Any]]:
    """One record per shipped model; `active_params` equals `params` for dense models."""
    records = []
    for path in MODELS:
        loaded = load_model(path)
        assert loaded.file is not None  # every shipped file has its published counts
        counted, published = parameters(loaded.model), loaded.file.published
        records.append(
            {
                "name": loaded.file.name,
                "aliases": loaded.file.aliases,
                "family": loaded.model.family,
                "params": counted,
                "active_params": counted,
                "published_params": published.params,
                "published_exact": published.exact,
                "published_source": published.source,
                "config_source": loaded.file.config_source,
                "difference": counted - published.params if published.params is not None else None,
            }
        )
    return records


def describe(name: str) -> dict[str, Any]:
    """One model: its shape as counted, and the config it came from."""
    loaded = load_model(name)
    model = loaded.model
    return {
        "name": model.name,
        "family": model.family,
        "params": parameters(model),
        "hidden": model.hidden,
        "layers": len(model.layers),
        "vocabulary": model.vocabulary,
        "max_position": model.max_position,
        "kv_bytes_per_token_16bit": model.cache_bytes(1, 1, Setting()),
        "published": plain_data(loaded.file.published) if loaded.file else None,
        "config_source": loaded.file.config_source if loaded.file else None,
        "config": loaded.config,
    }
