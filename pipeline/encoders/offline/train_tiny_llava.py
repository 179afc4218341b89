"""Train the tiny LLaVA that captions the demo's drawings: `python -m pipeline.encoders.offline.train_tiny_llava`.

A toy, but a real `LlavaForConditionalGeneration` with processor and chat template, of about half a million weights, so
that everything around a vision-language model runs where no hub is reachable. Seeded; pictures are drawn from seeds
that the demo's catalogue does not use.
"""

import argparse
import io
import json
import logging
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from pipeline.demo import catalogue, drawing
from pipeline.demo.products import Attributes

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "tiny_llava"
SIDE, PATCH = 64, 8
WIDTH = 96
BATCH = 32
SPECIAL = ["<pad>", "<s>", "</s>", "<image>"]
PROMPTS = [
    "Describe the product.",
    "Describe this product in one sentence.",
    "What is in the picture?",
    "Describe the product. Answer in one short sentence.",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ 'ASSISTANT: ' }}{% else %}{{ 'USER: ' }}"
    "{% endif %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{ ' ' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
HELD_OUT = 10_000_000
"""Held-out pictures are drawn from seeds at and above this one, training pictures from those below."""


def main() -> None:
    """Train, measure on held-out drawings, write the model's folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=6_000, help="training drawings")
    parser.add_argument(
        "--steps",
        type=int,
        default=1_500,
        help="training steps of the vision tower; the language model takes a third as many",
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    processor = make_processor()
    model: Any = make_model(processor)
    logger.info("%d weights", sum(p.numel() for p in model.parameters()))
    products, pixels = drawings(range(options.pictures), processor, side=96)
    model.train()
    learn_to_see(model.model.vision_tower, products, pixels, options.steps)
    learn_to_speak(model, processor, products, pixels, options.steps // 3)
    model.eval()
    options.out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(options.out)
    processor.save_pretrained(options.out)
    rate = exact_rate(model.float(), processor, *drawings(range(HELD_OUT, HELD_OUT + 1000), processor))
    logger.info("held-out exact captions: %.1f %%", 100 * rate)
    (options.out / "MEASURED.md").write_text(f"held-out exact-caption rate, 1000 drawings: {rate:.3f}\n")


def make_processor() -> LlavaProcessor:
    """A byte-level BPE learned from the captions, CLIP's picture preprocessing at 64 pixels, and the chat template."""
    captions = [
        catalogue.true_caption(Attributes(kind, colour, pattern, "", 1.0))
        for kind in drawing.KINDS
        for colour in drawing.COLOURS
        for pattern in drawing.PATTERNS
    ]
    bpe = ByteLevelBPETokenizer()
    corpus = [*captions, *(f"USER: \n{prompt} ASSISTANT: {caption}" for prompt in PROMPTS for caption in captions)]
    bpe.train_from_iterator(corpus, vocab_size=384, min_frequency=2, special_tokens=SPECIAL, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe._tokenizer,
        **dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=False)),
        extra_special_tokens={"image_token": SPECIAL[3]},
        padding_side="left",
        model_max_length=512,
    )
    picture = CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=picture,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=SPECIAL[3],
        chat_template=CHAT_TEMPLATE,
    )


def make_model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """Half a million weights: a four-layer ViT and a two-layer Llama."""
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(SIDE // PATCH) ** 2,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def drawings(seeds: range, processor: Any, side: int = 192) -> tuple[list[Attributes], Tensor]:
    """Products and their preprocessed pictures, (n, 3, SIDE, SIDE), float16, by way of JPEG, as the demo serves them.

    Args:
        side: of the drawing before preprocessing, in pixels.
    """
    products = [catalogue.attributes(random.Random(f"tiny llava {seed}")) for seed in seeds]  # noqa: S311 - reproducible
    pixels = []
    for start in range(0, len(seeds), 256):
        pictures = []
        for seed, product in zip(seeds[start : start + 256], products[start : start + 256], strict=True):
            jpeg = io.BytesIO()
            catalogue.draw(product, seed, side).save(jpeg, "JPEG", quality=90)
            pictures.append(Image.open(jpeg).convert("RGB"))
        pixels.append(processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"].half())
    return products, torch.cat(pixels)


def learn_to_see(tower: Any, products: list[Attributes], pixels: Tensor, steps: int) -> None:
    """Train the vision tower alone: three linear heads read kind, colour and pattern from the mean of its patches.

    Far cheaper than training it through the language model, one token at a time.
    """
    classes = [list(drawing.KINDS), list(drawing.COLOURS), list(drawing.PATTERNS)]
    traits = [(p.kind, p.colour, p.pattern) for p in products]
    labels = torch.tensor([[names.index(v) for names, v in zip(classes, values, strict=True)] for values in traits])
    heads = nn.ModuleList(nn.Linear(WIDTH, len(names)) for names in classes)

    def loss(batch: Tensor, picture: Tensor, _: np.random.Generator) -> Tensor:
        patches = tower(pixel_values=picture).last_hidden_state[:, 1:].mean(1)
        terms = [nn.functional.cross_entropy(head(patches), labels[batch, i]) for i, head in enumerate(heads)]
        return torch.stack(terms).sum()

    optimize("seeing", [*tower.parameters(), *heads.parameters()], loss, pixels, steps, peak=1.5e-3)


def learn_to_speak(model: Any, processor: Any, products: list[Attributes], pixels: Tensor, steps: int) -> None:
    """Train projector and language model on the caption's next tokens, with the vision tower fixed."""
    texts = TrainingTexts(processor, products)
    model.model.vision_tower.requires_grad_(False)

    def loss(batch: Tensor, picture: Tensor, generator: np.random.Generator) -> Any:
        ids, mask, targets = texts.batch(batch.tolist(), generator)
        return model(input_ids=ids, attention_mask=mask, pixel_values=picture, labels=targets).loss

    optimize("speaking", [p for p in model.parameters() if p.requires_grad], loss, pixels, steps, peak=2e-3)


def optimize(
    name: str,
    parameters: list[Any],
    loss_of: Callable[[Tensor, Tensor, np.random.Generator], Tensor],
    pixels: Tensor,
    steps: int,
    peak: float,
) -> None:
    """AdamW with warm-up and cosine decay over random batches of augmented pictures."""
    generator = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 100, 0.5 * (1 + math.cos(math.pi * step / steps)))
    )
    started = time.monotonic()
    for step in range(steps):
        batch = torch.from_numpy(generator.choice(len(pixels), BATCH, replace=False))
        loss = loss_of(batch, augmented(pixels[batch].float(), generator), generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            logger.info("%s, step %d: loss %.3f, %.0f s", name, step, loss.item(), time.monotonic() - started)


class TrainingTexts:
    """Chat-formatted prompts with the true caption as the answer, tokenized once."""

    def __init__(self, processor: Any, products: list[Attributes]) -> None:
        tokenizer = processor.tokenizer
        image = "<image>" * (SIDE // PATCH) ** 2
        ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
        frame = processor.apply_chat_template(ask, add_generation_prompt=True).replace("<image>", image)
        self.prompts = [tokenizer(frame.replace("?", prompt))["input_ids"] for prompt in PROMPTS]
        self.answers = [
            [*tokenizer(f" {catalogue.true_caption(p)}")["input_ids"], tokenizer.eos_token_id] for p in products
        ]
        self.pad = tokenizer.pad_token_id

    def batch(self, indices: list[int], generator: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, attention mask and targets of these products, each (batch, length), padded on the left."""
        rows = [(self.prompts[generator.integers(len(self.prompts))], self.answers[i]) for i in indices]
        length = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.full((len(rows), length), self.pad)
        targets = torch.full((len(rows), length), -100)
        for row, (prompt, answer) in enumerate(rows):
            ids[row, length - len(prompt) - len(answer) :] = torch.tensor(prompt + answer)
            targets[row, length - len(answer) :] = torch.tensor(answer)
        return ids, (ids != self.pad).long(), targets


def augmented(pixels: Tensor, generator: np.random.Generator) -> Tensor:
    """Mirrored, shifted by up to four pixels, a little brighter or darker: none of it changes the caption."""
    if generator.random() < 0.5:
        pixels = pixels.flip(-1)
    padded = nn.functional.pad(pixels, (4, 4, 4, 4), mode="replicate")
    x, y = generator.integers(0, 9, 2)
    moved = padded[:, :, y : y + pixels.shape[2], x : x + pixels.shape[3]]
    return moved + torch.from_numpy(generator.normal(0, 0.03, (len(pixels), 1, 1, 1)).astype(np.float32))


@torch.inference_mode()
def exact_rate(model: Any, processor: Any, products: list[Attributes], pixels: Tensor) -> float:
    """Share of drawings whose generated caption is the true one, word for word."""
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPTS[0]}]}]
    prompt = processor.apply_chat_template(message, add_generation_prompt=True)
    prompt = prompt.replace("<image>", "<image>" * (SIDE // PATCH) ** 2)
    right, wrong = 0, []
    for start in range(0, len(products), 100):
        part = pixels[start : start + 100].float()
        tokens = processor.tokenizer([prompt] * len(part), return_tensors="pt")
        out = model.generate(**tokens, pixel_values=part, max_new_tokens=24, do_sample=False)
        answers = processor.batch_decode(out[:, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
        for product, answer in zip(products[start : start + 100], answers, strict=True):
            true = catalogue.true_caption(product)
            right += answer.strip() == true
            if answer.strip() != true:
                wrong.append({"true": true, "said": answer.strip()})
    logger.info("some mistakes: %s", json.dumps(wrong[:8]))
    return right / len(products)


if __name__ == "__main__":
    main()
