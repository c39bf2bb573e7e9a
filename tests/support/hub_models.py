"""Models with random weights in the layout of the Hugging Face hub, and a hub of them on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
SIGLIP = {  # SigLIP's text tower and tokenizer settings, as open_clip configures them, but small
    "embed_dim": 32,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {
        "context_length": 64,
        "vocab_size": 64,
        "hf_tokenizer_name": "org/tiny-siglip",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 2,
        "layers": 1,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-06},
    },
}
WORDS = ("a", "photo", "of", "person", "doctor", "nurse", "man", "woman", "the", "thief")


def save_model(folder: Path, model: dict[str, Any], *, seed: int = 0, **preprocess: Any) -> Path:
    """Save a model with random weights as ``open_clip.push_to_hf_hub`` does; return its folder."""
    import torch
    from open_clip import CustomTextCLIP
    from open_clip.model import CLIP as OpenCLIP  # noqa: N811
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    settings = {key: value for key, value in model.items() if key != "custom_text"}
    torch.manual_seed(seed)
    network = (CustomTextCLIP if model.get("custom_text") else OpenCLIP)(**settings)
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    document = {"model_cfg": model, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    return folder


def save_tokenizer(folder: Path) -> None:
    """Save a tokenizer of a few words, in the files of Hugging Face; it ends texts as SigLIP's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)


def put_in_cache(cache: Path, model: str, folder: Path) -> Path:
    """Lay a model's files out as the hub's client keeps downloads; return the snapshot's folder."""
    root = cache / f"models--{model.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for part in (root / "blobs", root / "refs", snapshot):
        part.mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for file in folder.iterdir():
        blob = root / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


@contextmanager
def serve_hub(models: dict[str, Path | str]) -> Iterator[str]:
    """Serve model folders as the hub does; a name instead of a folder is the hub's error code for it."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            if self.path == "/":
                return self._send(200, b"", {}, body)
            name, _, file = self.path.lstrip("/").partition("/resolve/main/")
            source = models.get(name, "RepoNotFound")
            if isinstance(source, str):
                status = 403 if source == "GatedRepo" else 404
                return self._send(status, b"", {"X-Error-Code": source}, body)
            if not (source / file).is_file():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            content = (source / file).read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            return self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, body)

        def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
