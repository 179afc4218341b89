"""Captions of whole shards by one captioner: the same code in this process and on the workers of a cluster."""

import functools
from dataclasses import dataclass, field
from typing import Any

from pipeline.captions import load
from pipeline.captions.attributes import judged
from pipeline.cluster import ONE_AT_A_TIME
from pipeline.encoders.base import Answer, Captioner, Fingerprint
from pipeline.encoders.on_cluster import check_same_model
from schemas.encoders import CaptionSpec
from schemas.tables import CaptionStatus

JudgedAnswer = tuple[str, CaptionStatus]
"""What is kept of an answer, and the verdict on it."""


@dataclass
class ShardAnswers:
    """The answers to a shard's pictures, and what they cost.

    Attributes:
        judged: content hash → the answer, or the second one if the first was no caption.
        asked_again: number of pictures with a second request.
        tokens_in, tokens_out: as the model or the endpoint counted them.
        seconds: sum over the answers of the time each took.
    """

    judged: dict[str, JudgedAnswer] = field(default_factory=dict)
    asked_again: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0


class ShardCaptioner:
    """A captioner that is loaded when the first new picture comes."""

    def __init__(self, spec: CaptionSpec, captioner: Captioner | None = None) -> None:
        self._spec = spec
        self._captioner = captioner

    def run(self, fresh: dict[str, bytes]) -> ShardAnswers:
        """Caption pictures, given by content hash."""
        answers = ShardAnswers()
        if fresh:
            if self._captioner is None:
                self._captioner = load.load(self._spec)
            keys = list(fresh)
            size = len(keys) if self._spec.kind == "endpoint" else self._captioner.batch_size
            for start in range(0, len(keys), size):
                batch = keys[start : start + size]
                judged = self._caption(self._captioner, [fresh[key] for key in batch], answers)
                answers.judged |= zip(batch, judged, strict=True)
        return answers

    def _caption(self, captioner: Captioner, images: list[bytes], answers: ShardAnswers) -> list[JudgedAnswer]:
        verdicts = [self._judge(answer, answers) for answer in captioner.caption(images)]
        doubtful = [
            i for i, (_, status) in enumerate(verdicts) if status not in (CaptionStatus.OK, CaptionStatus.ERROR)
        ]
        if doubtful:
            answers.asked_again += len(doubtful)
            second = captioner.caption([images[i] for i in doubtful], again=True)
            for i, answer in zip(doubtful, second, strict=True):
                verdicts[i] = self._judge(answer, answers)
        return verdicts

    def _judge(self, answer: Answer, answers: ShardAnswers) -> JudgedAnswer:
        """Judge one answer and add its cost to `answers`."""
        answers.tokens_in += answer.tokens_in
        answers.tokens_out += answer.tokens_out
        answers.seconds += answer.seconds
        return (answer.text, CaptionStatus.ERROR) if answer.failed else judged(answer.text, self._spec, cut=answer.cut)


def caption(spec: CaptionSpec, identity: Fingerprint, fresh: dict[str, Any]) -> ShardAnswers:
    """Runs on a worker: caption one shard's fresh pictures."""
    with ONE_AT_A_TIME:
        return _captioner(spec, identity.key()).run(fresh)


@functools.lru_cache(maxsize=1)
def _captioner(spec: CaptionSpec, key: str) -> ShardCaptioner:
    check_same_model(load.fingerprint(spec), key)
    return ShardCaptioner(spec)
