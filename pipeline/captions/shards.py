"""Captions of whole shards by one captioner: the same code in this process and on the workers of a cluster."""

import functools
from dataclasses import dataclass, field
from typing import Any

from pipeline.captions import load
from pipeline.captions.verdict import verdict
from pipeline.encoders.base import Answer, Captioner, Fingerprint
from pipeline.encoders.on_cluster import ONE_AT_A_TIME, check_same_model
from schemas.encoders import CaptionSpec
from schemas.tables import CaptionStatus

Judged = tuple[str, CaptionStatus]


@dataclass
class Asked:
    """What was asked and answered.

    Attributes:
        judged: content hash → the answer, after a second request where the first gave no caption, and the verdict.
        asked_again: pictures asked for twice.
        tokens_in, tokens_out: as the model or the endpoint counted them.
        seconds: sum over answers of the time to them.
    """

    judged: dict[str, Judged] = field(default_factory=dict)
    asked_again: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0


class ShardCaptioner:
    """A captioner, loaded when the first new picture comes."""

    def __init__(self, spec: CaptionSpec, captioner: Captioner | None = None) -> None:
        self._spec = spec
        self._captioner = captioner

    def run(self, fresh: dict[str, bytes]) -> Asked:
        """One answer for each picture of a shard."""
        asked = Asked()
        if fresh:
            if self._captioner is None:
                self._captioner = load.load(self._spec)
            keys = list(fresh)
            size = len(keys) if self._spec.kind == "endpoint" else self._captioner.batch_size
            for start in range(0, len(keys), size):
                part = keys[start : start + size]
                answers = self._judged(self._captioner, [fresh[key] for key in part], asked)
                asked.judged |= zip(part, answers, strict=True)
        return asked

    def _judged(self, captioner: Captioner, images: list[bytes], asked: Asked) -> list[Judged]:
        first = [self._judge(answer, asked) for answer in captioner.caption(images)]
        doubtful = [i for i, (_, status) in enumerate(first) if status not in (CaptionStatus.OK, CaptionStatus.ERROR)]
        if doubtful:
            asked.asked_again += len(doubtful)
            second = captioner.caption([images[i] for i in doubtful], again=True)
            for i, answer in zip(doubtful, second, strict=True):
                first[i] = self._judge(answer, asked)
        return first

    def _judge(self, answer: Answer, asked: Asked) -> Judged:
        asked.tokens_in += answer.tokens_in
        asked.tokens_out += answer.tokens_out
        asked.seconds += answer.seconds
        status = CaptionStatus.ERROR if answer.failed else verdict(answer.text, self._spec.max_words, cut=answer.cut)
        return answer.text, status


def ask(spec: CaptionSpec, identity: Fingerprint, fresh: dict[str, Any]) -> Asked:
    """One shard's fresh pictures, on a worker."""
    with ONE_AT_A_TIME:
        return _loaded(spec, identity.key()).run(fresh)


@functools.lru_cache(maxsize=1)
def _loaded(spec: CaptionSpec, expected: str) -> ShardCaptioner:
    check_same_model(load.fingerprint(spec), expected)
    return ShardCaptioner(spec)
