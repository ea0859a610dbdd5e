"""Loads a causal language model for the judge, from a local folder or the Hub."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perturb.models.judge.language_model import LanguageModel, Tokens
from perturb.schemas.errors import ModelError


def load_language_model(folder_or_id: str, *, name: str, sha256: str | None, batch_size: int) -> LanguageModel:
    """Load a causal language model in float32 from a local folder or the Hub, onto the GPU where there is one.

    `sha256` None computes the digest of the weight files. Raises ModelError that says what is accepted.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    import perturb.models._torchvision  # noqa: F401  # transformers imports torchvision where it finds one

    disable_progress_bar()  # type: ignore[no-untyped-call]  # Its bar for two hundred small tensors would vanish at once.
    try:
        encode, start = _tokenizer(folder_or_id)
        model: Any = AutoModelForCausalLM.from_pretrained(folder_or_id, dtype=torch.float32)
        digest = sha256 or _digest_of_weights(folder_or_id)
        model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        body, head = model.get_decoder(), model.get_output_embeddings().weight
    # Damaged tokenizers and safetensors raise errors whose only base is Exception.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ModelError(
            f"judge {name!r} cannot be loaded ({reason}); accepted: 'gemma-3-270m', the Hugging Face id or the folder "
            "of a causal language model, or judge.name = 'none' (PERTURB_JUDGE__NAME=none) for no judge"
        ) from error
    return LanguageModel(
        name=name,
        sha256=digest,
        encode=encode,
        start=start,
        body=body,
        head=head,
        soft_cap=getattr(model.config, "final_logit_softcapping", None),
        batch_size=batch_size,
    )


def _tokenizer(folder_or_id: str) -> tuple[Callable[[str], Tokens], Tokens]:
    file = Path(folder_or_id) / "tokenizer.json"
    if file.is_file():
        # Half the time of AutoTokenizer, which parses the same file and then builds a second vocabulary.
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(file))
        start = tuple(fast.encode("").ids[:1])  # What the tokenizer itself puts first: Gemma's <bos>, Qwen's nothing.
        return lambda text: tuple(fast.encode(text, add_special_tokens=False).ids), start
    from transformers import AutoTokenizer

    slow = AutoTokenizer.from_pretrained(folder_or_id)
    return lambda text: tuple(slow.encode(text, add_special_tokens=False)), tuple(slow.encode("")[:1])


def _digest_of_weights(folder_or_id: str) -> str:
    """sha256 over the weight files' bytes, in the order of their names."""
    folder = Path(folder_or_id)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(folder_or_id, local_files_only=True, allow_patterns=["*.safetensors"]))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise OSError(f"no .safetensors file in {folder}")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
