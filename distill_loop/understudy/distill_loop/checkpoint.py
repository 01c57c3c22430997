"""An encoder's float weights on disk: what a warm start needs and no edge ever sees."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import msgspec

from understudy.distill_loop.encoder import Encoder, EncoderSpec
from understudy.distill_loop.static import StaticEncoder
from understudy.distill_loop.student import StudentModel


def save_model(model: StudentModel, folder: Path) -> None:
    """Writes shape, weights and tokenizer."""
    from safetensors.torch import save_file

    state = {name: value.contiguous() for name, value in model.encoder.state_dict().items()}
    save_file(state, folder / "encoder.safetensors")
    spec = {"spec": asdict(model.encoder.spec), "layer_map": model.layer_map}
    (folder / "spec.json").write_text(json.dumps(spec, sort_keys=True), "utf-8")
    (folder / "tokenizer.json").write_text(model.tokenizer, "utf-8")


def share_model(source: Path, folder: Path) -> None:
    """The same model in another folder: links where the file system has them, else copies."""
    for file in source.iterdir():
        try:
            os.link(file, folder / file.name)
        except OSError:
            shutil.copy2(file, folder / file.name)


def load_model(folder: Path) -> StudentModel:
    """Reads what `save_model` wrote."""
    from safetensors.torch import load_file

    plain = json.loads((folder / "spec.json").read_text("utf-8"))
    spec = msgspec.convert(plain["spec"], EncoderSpec)
    encoder = StaticEncoder(spec) if spec.static else Encoder(spec)
    encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    tokenizer = (folder / "tokenizer.json").read_text("utf-8")
    return StudentModel(encoder.eval(), tokenizer, tuple(plain["layer_map"]))
