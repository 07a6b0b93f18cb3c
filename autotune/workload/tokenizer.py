"""The model's own tokenizer."""

from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer

from autotune.errors import InputError

Encode = Callable[[str], list[int]]


def load_tokenizer(model: Path) -> Tokenizer:
    """The tokenizer of a model's folder, without truncation and padding.

    Raises InputError when the folder has no `tokenizer.json`, or one that cannot be read.
    """
    path = model / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"model {model}: has no tokenizer.json, which text is counted with. Make one from the model's other "
            "tokenizer files with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER); or use "
            "a dataset of kind synthetic"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as exc:  # the library raises no narrower one, for a file it is too old for as well
        raise InputError(f"{path}: cannot be read by the tokenizers library: {exc}") from exc
    tokenizer.no_truncation()  # some models' files cut texts off, or fill them up
    tokenizer.no_padding()
    return tokenizer


def encoder(model: Path | None) -> Encode:
    """How the model whose folder is given splits text; no special tokens are added. Raises as `load_tokenizer`."""
    tokenizer = load_tokenizer(model or Path())

    def encode(text: str) -> list[int]:
        # One text at a time: `encode_batch` starts threads, after which processes cannot safely be forked.
        return tokenizer.encode(text, add_special_tokens=False).ids

    return encode
