"""Methods that decide about many requests at once: `roofline serve` applies them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServingMethod:
    """One of them: what it does, and how it is asked for."""

    name: str
    aliases: tuple[str, ...]
    summary: str
    paper: str
    removes: str
    adds: str
    needs: str
    option: str  # of `roofline serve`
    example: str  # a whole question, as `roofline serve` takes it


SERVING = (
    ServingMethod(
        "continuous-batching",
        ("in-flight-batching", "orca"),
        "Sequences join and leave the batch at every step.",
        "Orca, OSDI 2022",
        removes="waiting for the longest answer of a batch; places in it whose answer has ended",
        adds="stalls of decoding while a prompt is prefilled",
        needs="a scheduler that looks at every step, a cache that grows by sequence",
        option="--batching continuous",
        example="Llama-3.1-8B --hw h100 --rate 10 --batching continuous",
    ),
    ServingMethod(
        "chunked-prefill",
        ("sarathi", "stall-free-batching"),
        "Prompts are prefilled in chunks, in the same steps as decoding sequences.",
        "Sarathi-Serve arXiv:2403.02310",
        removes="stalls of decoding while a prompt is prefilled",
        adds="reads of the cache by every chunk; a longer time to the first token",
        needs="steps that mix prompts and decoding",
        option="--batching chunked",
        example="Llama-3.1-8B --hw h100 --rate 10 --batching chunked",
    ),
    ServingMethod(
        "disaggregation",
        ("splitwise", "distserve", "prefill-decode-disaggregation"),
        "Some engines prefill prompts and send the cache to others, which decode.",
        "Splitwise arXiv:2311.18677; DistServe arXiv:2401.09670",
        removes="interference between prefill and decode",
        adds="the cache of every prompt over a link",
        needs="engines of both kinds, and a link between them",
        option="--readers N",
        example="Llama-3.1-8B --hw dgx-h100 --rate 10 --readers 1",
    ),
)
