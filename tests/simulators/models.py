"""Tiny models made on the spot: real architectures, real tokenizers, random weights.

Small enough to start anywhere, large enough that two implementations of one architecture must agree
on every number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

_WORDS = (
    "where is my card the machine swallowed it i lost stolen transfer money to another account "
    "why was charged fee for cash at atm please help me options text answer with letter only "
    "which of below fits best name balance not updated after cheque top up failed pending"
)


def tiny_llama(folder: Path, *, seed: int = 0, chat: bool = False) -> Path:
    """A two-layer Llama with a byte-level tokenizer; every letter is a token of its own."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    size = byte_tokenizer(folder, chat=chat)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
        # Wide enough that answers differ clearly.
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).float().eval().save_pretrained(folder)
    return folder


def tiny_lora(folder: Path, base: Path, *, seed: int = 1) -> Path:
    """A LoRA adapter for a model of `tiny_llama` that changes its answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
        init_lora_weights=False,  # its usual first values change nothing
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(str(folder))
    return folder


def tiny_bert_classifier(folder: Path, labels: Sequence[str], *, seed: int = 0) -> Path:
    """A two-layer BERT with a classification head over `labels`."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=_word_tokenizer(folder),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=128,
        initializer_range=0.3,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    BertForSequenceClassification(config).float().eval().save_pretrained(folder)
    return folder


def tiny_encoder(folder: Path, *, seed: int = 0, vector_size: int = 32) -> Path:
    """A one-layer BERT without head: the smallest sentence encoder."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=_word_tokenizer(folder),
        hidden_size=vector_size,
        num_hidden_layers=1,
        num_attention_heads=vector_size // 32,  # vLLM knows heads of 32 on processors
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).float().eval().save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    return folder


def byte_tokenizer(folder: Path, *, chat: bool) -> int:
    """Every byte a token, and three special ones; returns how many."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1, "<turn>": 2}
    vocabulary |= {letter: index for index, letter in enumerate(alphabet, start=3)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106 - a token of a model
        eos_token="</s>",  # noqa: S106
        additional_special_tokens=["<turn>"],
    )
    if chat:
        fast.chat_template = (
            "<s>{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<turn>{% endfor %}"
            "assistant\n{% if not enable_thinking %}ok\n{% endif %}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    return len(vocabulary)


def _word_tokenizer(folder: Path) -> int:
    from transformers import BertTokenizer

    words = sorted(set(_WORDS.split()))
    pieces = [chr(code) for code in range(33, 127)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = list(dict.fromkeys([*special, *pieces, *(f"##{p}" for p in pieces), *words]))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(vocabulary))
    BertTokenizer(str(path), do_lower_case=True).save_pretrained(folder)
    facts = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(facts | {"model_max_length": 128}))
    return len(vocabulary)
