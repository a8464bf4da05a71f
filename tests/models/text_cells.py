"""Models of text: transformers, and peft's adapters in them."""

from typing import Any

import torch
from model_cells import (
    CLASSES,
    Call,
    Model,
    Rows,
    Thin,
    Truth,
    head_at,
    images_of,
    labels_in_turn,
    mappings,
    own_loss,
    weight_at,
)
from torch import Tensor

WORDS, LENGTH = 11, 7
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": WORDS}


def named_labels(batch: Any) -> Tensor:
    return batch["labels"]


# Sequences, padded on the right


def texts(per_token: bool = False) -> Any:
    y = labels_in_turn()
    ids = torch.randint(3, WORDS, (len(y), LENGTH)) % (4 + 3 * y[:, None]) + 1
    lengths = torch.randint(3, LENGTH + 1, (len(y), 1))
    counts = torch.arange(LENGTH) < lengths
    ids = torch.where(counts, ids.clamp(max=WORDS - 1), 0)
    labels = torch.where(counts, ids % CLASSES, -100) if per_token else y
    return mappings(
        [
            {"input_ids": i, "attention_mask": m.long(), "labels": label}
            for i, m, label in zip(ids, counts, labels, strict=True)
        ]
    )


def continued() -> Any:
    """Causal language modelling: the labels are the inputs, and the model shifts them."""
    start = torch.randint(0, WORDS, (36, 1))
    ids = (start + torch.arange(LENGTH) * torch.randint(1, 3, (36, 1))) % WORDS
    return mappings([{"input_ids": row, "labels": row} for row in ids])


def pairs() -> Any:
    start = torch.randint(0, WORDS, (36, 1))
    ids = (start + torch.arange(LENGTH)) % WORDS
    return mappings([{"input_ids": row, "labels": row.flip(0)[:5]} for row in ids])


def pictures() -> Any:
    y = labels_in_turn()
    x = images_of(y, 16)
    return mappings([{"pixel_values": i, "labels": j} for i, j in zip(x, y, strict=True)])


def labelled_pixels() -> Any:
    y = torch.randint(0, CLASSES, (36, 8, 8)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    x = torch.randn(36, 3, 32, 32) + y[:, None]
    return mappings([{"pixel_values": i, "labels": j} for i, j in zip(x, y, strict=True)])


def every_fourth_pixel(batch: Any) -> Tensor:
    return batch["labels"][:, ::4, ::4]


# Models


def transformer(name: str, **settings: Any) -> Any:
    """A model of transformers with random weights."""
    import transformers

    kind = getattr(transformers, name)
    return kind(kind.config_class(num_labels=CLASSES, **settings))


def bert(name: str = "BertForSequenceClassification") -> Any:
    return transformer(name, vocab_size=WORDS, max_position_embeddings=16, **SIZES)


def gpt2_of_sequences() -> Any:
    return transformer("GPT2ForSequenceClassification", pad_token_id=0, **GPT2)


def t5(**settings: Any) -> Any:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return transformer(
        "T5ForConditionalGeneration", vocab_size=WORDS, decoder_start_token_id=0, **sizes, **settings
    )


def vit() -> Any:
    return transformer("ViTForImageClassification", image_size=16, patch_size=8, **SIZES)


def segformer() -> Any:
    """Its head is a 1x1 convolution on every fourth pixel, and its loss is that of all of them."""
    sizes = {
        "num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 16], "decoder_hidden_size": 16,
        "num_attention_heads": [1, 2], "sr_ratios": [2, 1], "strides": [4, 2], "patch_sizes": [7, 3],
        "mlp_ratios": [2, 2],
    }  # fmt: skip
    return transformer("SegformerForSemanticSegmentation", **sizes)


def adapted(*targets: str, **settings: Any) -> Any:
    import peft

    settings = {"task_type": "SEQ_CLS", "r": 2, "target_modules": list(targets), **settings}
    return peft.get_peft_model(bert(), peft.LoraConfig(**settings))


def with_ia3() -> Any:
    """It scales the classifier's input or output, by ones at first."""
    import peft

    targets = {"target_modules": ["query", "classifier"], "feedforward_modules": ["classifier"]}
    return peft.get_peft_model(bert(), peft.IA3Config(**targets))


# Truths


def last_tokens(x: Tensor, batch: Any) -> Tensor:
    return x[torch.arange(len(x)), batch["attention_mask"].sum(1) - 1]


def _next_tokens(calls: dict[str, list[Call]], batch: Any) -> Rows:
    [head] = calls["net.lm_head"]
    return head.x[:, :-1], batch["labels"][:, 1:], head.output[:, :-1].argmax(-1)


NEXT_TOKENS = Truth(("net.lm_head",), _next_tokens, weight_at("net.lm_head"))
LORA = "net.base_model.model.classifier"


def _with_lora(module: Any) -> tuple[Tensor, Tensor]:
    head = module.get_submodule(LORA)
    [low], [high] = head.lora_A.values(), head.lora_B.values()
    [scale] = head.scaling.values()
    base = head.base_layer
    return base.weight + scale * high.weight @ low.weight, base.bias


def _at_lora(calls: dict[str, list[Call]], batch: Any) -> Rows:
    [head] = calls[LORA]
    return head.x, batch["labels"], head.output.argmax(-1)


NO_TRUTH = head_at(LORA, named_labels)  # it is never asked for
DROPOUT = "Active Dropout directly precedes"
SAVED = "net.base_model.model.classifier.modules_to_save.default"

TEXT = (
    Model(
        "BERT classification", "transformers", lambda: Thin(bert(), own_loss), texts,
        head_at("net.classifier", named_labels), says=DROPOUT,
    ),
    Model(
        "BERT token classification", "transformers",
        lambda: Thin(bert("BertForTokenClassification"), own_loss), lambda: texts(per_token=True),
        head_at("net.classifier", named_labels), says=DROPOUT,
    ),
    Model(
        "GPT-2 language model", "transformers",
        lambda: Thin(transformer("GPT2LMHeadModel", **GPT2), own_loss), continued, NEXT_TOKENS,
        refused="target_shift=1", remedy={"target_shift": 1},
    ),
    Model(
        "GPT-2 sequence classification", "transformers", lambda: Thin(gpt2_of_sequences(), own_loss),
        texts, head_at("net.score", named_labels, last_tokens),
        refused=r"70 features and labels of shape \(10,\)", remedy={"pool": "last_token"},
    ),
    Model(
        "T5", "transformers", lambda: Thin(t5(), own_loss), pairs,
        head_at("net.lm_head", named_labels),
    ),
    Model(
        "ViT", "transformers", lambda: Thin(vit(), own_loss), pictures,
        head_at("net.classifier", named_labels),
    ),
    Model(
        "Segformer", "transformers", lambda: Thin(segformer(), own_loss), labelled_pixels,
        head_at(
            "net.decode_head.classifier", every_fourth_pixel, lambda x, batch: x.movedim(1, -1)
        ),
        refused="'net.decode_head.classifier.weight'",
        remedy={
            "classifier": "net.decode_head.classifier", "target": "text_cells.every_fourth_pixel",
        },
        says=DROPOUT,
    ),
    Model(
        "LoRA on the attention, the classifier trained whole", "peft",
        lambda: Thin(adapted("query", "value"), own_loss), texts, head_at(SAVED, named_labels),
        says=DROPOUT, others=("transformers",),
    ),
    Model(
        "LoRA on the attention, the classifier named", "peft",
        lambda: Thin(adapted("query", "value"), own_loss), texts, head_at(SAVED, named_labels),
        sets={"classifier": LORA}, says=DROPOUT, others=("transformers",),
    ),
    Model(
        "LoRA on the classifier", "peft",
        lambda: Thin(adapted("query", "classifier", modules_to_save=[], task_type=None), own_loss),
        texts, Truth((LORA,), _at_lora, _with_lora),
        refused=f"'{LORA}.lora_B.default'", remedy={"classifier": LORA},
        says=DROPOUT, others=("transformers",),
    ),
    Model(
        "an adapter on the classifier that is not LoRA", "peft", lambda: Thin(with_ia3(), own_loss),
        texts, NO_TRUTH, sets={"classifier": LORA}, refused="to be a linear map",
        others=("transformers",),
    ),
)  # fmt: skip
