"""The shipped models as records: counted parameters, published ones, and the difference."""

from __future__ import annotations

from typing import Any

from specfiles.strict import plain_data
from workloads.catalogue import MODELS, Published, agrees, load_model
from workloads.model import Model
from workloads.phases import ActiveConvention, Setting, active_parameters, parameters


def model_records() -> list[dict[str, Any]]:
    """One record per shipped model; `active_params` by the publisher's counting."""
    records = []
    for path in MODELS:
        loaded = load_model(path)
        assert loaded.file is not None  # every shipped file has its published counts
        counted, published = parameters(loaded.model), loaded.file.published
        stated = published.active
        convention: ActiveConvention = stated.convention if stated else "all"
        active = active_parameters(loaded.model, convention)
        records.append(
            {
                "name": loaded.file.name,
                "aliases": loaded.file.aliases,
                "family": loaded.model.family,
                "params": counted,
                "active_params": active,
                "active_convention": convention,
                "published_active": stated.rounded if stated else None,
                "active_source": stated.source if stated else None,
                "active_source_opened": stated.opened if stated else None,
                "active_agrees": agrees(active, stated.rounded) if stated else None,
                "published_params": published.params,
                "published_exact": published.exact,
                "published_rounded": published.rounded,
                "published_source": published.source,
                "config_source": loaded.file.config_source,
                "difference": _difference(counted, published),
            }
        )
    return records


def _difference(counted: int, published: Published) -> int | None:
    """Counted less published; 0 where a rounded published count agrees."""
    if published.params is not None:
        return counted - published.params
    if published.rounded is None:
        return None
    return 0 if agrees(counted, published.rounded) else counted


def family_records() -> list[dict[str, Any]]:
    """One record per family of configs: whether it can be read and profiled, and is in transformers.

    Families are the readable ones and the causal language models of the installed transformers; without it
    `transformers` is None.
    """
    from profiler.ranges import FAMILIES as RANGED
    from workloads.families import FAMILIES as READ

    try:
        from transformers.models.auto import modeling_auto
    except ImportError:
        theirs, others = None, set()
    else:
        theirs = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        others = set(modeling_auto.MODEL_MAPPING_NAMES)  # includes encoders and encoder-decoders
    return [
        {
            "family": kind,
            "read": kind in READ,
            "ranges": kind in RANGED,
            "transformers": None if theirs is None else kind in theirs | others,
        }
        for kind in sorted({*READ, *(theirs or ())})
    ]


def describe(name: str) -> dict[str, Any]:
    """One model: its shape as counted, and the config it came from."""
    loaded = load_model(name)
    model = loaded.model
    return {
        "name": model.name,
        "family": model.family,
        "params": parameters(model),
        "active_params": active_parameters(model),
        "hidden": model.hidden,
        "layers": len(model.layers),
        "vocabulary": model.vocabulary,
        "max_position": model.max_position,
        "kv_bytes_per_token_16bit": int(_growth(model)),
        "published": plain_data(loaded.file.published) if loaded.file else None,
        "config_source": loaded.file.config_source if loaded.file else None,
        "config": loaded.fields(),
    }


def _growth(model: Model) -> float:
    """Bytes of cache that the second position adds: states, which the first brings along, stay."""
    first, second = (model.cache_bytes(1, tokens, Setting()) for tokens in (1, 2))
    return float(second - first)
