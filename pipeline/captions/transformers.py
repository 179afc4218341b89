"""Captions by an image-text-to-text model of transformers: processor, chat template, batched greedy generation."""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from pipeline.captions.attributes import prompt
from pipeline.encoders.base import Answer, Fingerprint
from pipeline.encoders.bfloat16 import prepare
from pipeline.machine import device
from schemas.encoders import CaptionSpec


class TransformersCaptioner:
    """A `Captioner` over a folder that holds a model, its processor and its chat template."""

    def __init__(self, spec: CaptionSpec, folder: Path, identity: Fingerprint) -> None:
        self.fingerprint = identity
        self.batch_size = spec.batch_size
        self._spec = spec
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": spec.trust_remote_code}
        self._processor: Any = AutoProcessor.from_pretrained(folder, **options)  # type: ignore[no-untyped-call]
        self._processor.tokenizer.padding_side = "left"  # generation continues at the right end
        self._model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, **options
        )
        prepare(self._model, identity.dtype, device())

    @torch.inference_mode()
    def caption(self, images: Sequence[bytes], *, again: bool = False) -> list[Answer]:
        """Greedy, so that equal pictures get equal answers. An unreadable picture gets a failed answer."""
        started = time.monotonic()
        answers: dict[int, Answer] = {}
        pictures: list[Image.Image] = []
        places: list[int] = []
        for place, image in enumerate(images):
            try:
                with Image.open(io.BytesIO(image)) as picture:
                    pictures.append(picture.convert("RGB"))
                places.append(place)
            except OSError as error:
                answers[place] = Answer(text=f"the stored picture cannot be read: {error}", failed=True)
        if pictures:
            generated = self._generate(pictures, again)
            seconds = (time.monotonic() - started) / len(pictures)
            for place, answer in zip(places, generated, strict=True):
                answers[place] = answer.model_copy(update={"seconds": seconds})
        return [answers[place] for place in range(len(images))]

    def _generate(self, pictures: list[Image.Image], again: bool) -> list[Answer]:
        inputs = self._processor.apply_chat_template(
            [self._conversation(picture, again) for picture in pictures],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(device())
        length = inputs["input_ids"].shape[1]
        out = self._model.generate(
            **inputs,
            max_new_tokens=self._spec.max_new_tokens,
            do_sample=False,
            repetition_penalty=1.3 if again else 1.0,
        )[:, length:]
        special = torch.tensor(self._processor.tokenizer.all_special_ids, device=out.device)
        texts = self._processor.batch_decode(out, skip_special_tokens=True)
        tokens_in = inputs["attention_mask"].sum(1).tolist()
        tokens_out = (~torch.isin(out, special)).sum(1).tolist()
        return [
            Answer(text=text.strip(), cut=n_out == self._spec.max_new_tokens, tokens_in=n_in, tokens_out=n_out)
            for text, n_in, n_out in zip(texts, tokens_in, tokens_out, strict=True)
        ]

    def _conversation(self, picture: Image.Image, again: bool) -> list[dict[str, Any]]:
        user = {
            "role": "user",
            "content": [{"type": "image", "image": picture}, {"type": "text", "text": prompt(self._spec, again=again)}],
        }
        if not self._spec.system:
            return [user]
        return [{"role": "system", "content": [{"type": "text", "text": self._spec.system}]}, user]
