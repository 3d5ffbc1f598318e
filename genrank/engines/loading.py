"""Loads a causal language model, its tokenizer and adapters with Hugging Face transformers and PEFT.

Both libraries load the weights that fit and fill the rest with random numbers; here, weights that do not fit are an
error. Code in a model's folder runs only if the caller allows it, and pickles are never read.
"""

from __future__ import annotations

import copy
import math
import platform
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from genrank.adapters import load_manifest
from genrank.engines.attention import group_heads
from genrank.engines.quantised import quantise, replace_linear
from genrank.engines.tokenizer import check_tokens, load_config, load_tokenizer
from genrank.errors import InputError, MissingExtraError, ModelError
from genrank.models.hub import hub_adapter
from genrank.models.quantisation import check_not_rounded_again, check_readable, quantised_by
from genrank.models.registry import KNOWN_MODELS
from genrank.models.store import resolve
from genrank.models.weights import (
    ADAPTER_WEIGHTS,
    check_adapter_files,
    check_files,
    is_whole,
    named,
    read_header,
    read_tensors,
    reading,
    weights_fingerprint,
)
from genrank.progress import Silent, quiet_loading

try:
    import torch
    from safetensors import safe_open
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto import modeling_auto
    from transformers.quantizers import auto as quantizers
except ImportError as _error:
    raise MissingExtraError(_error.name or "transformers", "transformers") from None

_PACKED_FOR = 64  # number of rows that oneDNN optimises the weights' layout for; other numbers are as fast
_COMPUTED = re.compile(r"(^|\.)(inv_freq|position_ids|attn\.(masked_)?bias|attention\.(masked_)?bias)$")
"""Tensors in old checkpoints that are not weights, because the model computes them itself."""


def load(
    model: str,
    adapter: str | None,
    device: torch.device,
    dtype: torch.dtype,
    *,
    int8: bool = False,
    pictures: bool = False,
    trust_remote_code: bool = False,
    check_adapter: bool = True,
) -> tuple[Any, Any]:
    """Load a model, with its adapter merged into it and ready to run, and its tokenizer.

    Args:
        model: A known name, a local folder or a hub name.
        adapter: Folder or hub name of a PEFT adapter.
        device: Where the model runs.
        dtype: The dtype of its weights.
        int8: Whether linear layers become `genrank.engines.quantised.Int8Linear`.
        pictures: Whether it is a model that looks at pictures.
        trust_remote_code: Whether to run code in the model's folder.
        check_adapter: Whether to refuse an adapter that was trained on other weights.

    Raises:
        ModelNotFoundError: When there is no such model.
        ModelError: When the files of the model or the adapter cannot be read or do not fit, or the model is not a
            causal language model.
        ConfigError: When the adapter was trained on another model; or the weights are quantised already, and this
            machine cannot read them, or `int8` is asked for on top.
        MissingExtraError: When there is an adapter, and peft is not installed.
        InputError: When the model cannot be in int8, or does not look at pictures.
    """
    folder = resolve(model)
    if int8:
        check_not_rounded_again(folder, check_files(folder, weights=False))
    found = None if adapter is None else find_adapter(adapter)
    if found is not None and check_adapter:
        check_base(found, model, folder)
    loaded = load_model(folder, pictures=pictures, trust_remote_code=trust_remote_code, dtype=dtype)
    tokenizer = load_fitting_tokenizer(loaded, folder, trust_remote_code=trust_remote_code)
    if found is not None:
        adapted = load_adapter(loaded, found, model)
        with reading(found):
            loaded = adapted.merge_and_unload()
        check_numbers(loaded, found)
    loaded = loaded.to(device).eval()
    writer = loaded.get_decoder() if pictures else loaded  # what looks at pictures stays as it is
    group_heads(writer)
    if int8:
        quantise(loaded)
    elif device.type == "cpu" and dtype == torch.bfloat16:
        _pack(writer)
    return loaded, tokenizer


def load_model(folder: Path, *, pictures: bool = False, trust_remote_code: bool = False, **options: Any) -> Any:
    """A causal language model whose weights all come from the folder.

    Args:
        folder: The model's folder.
        pictures: Whether it is one that looks at pictures.
        trust_remote_code: Whether to run code in it.
        options: Options of transformers' ``from_pretrained``, such as ``dtype``.

    Raises:
        ModelError: When the files are broken, the model is not a causal language model, or weights are missing, left
            over or of another shape.
        ConfigError: When the weights are quantised, and a package or a GPU for them is missing.
        InputError: When it is to look at pictures, and does not.
    """
    values = check_files(folder)
    check_readable(folder, values, gpu=torch.cuda.is_available())
    (check_seeing if pictures else check_causal)(folder, values, trust_remote_code=trust_remote_code)
    kind: Any = AutoModelForImageTextToText if pictures else AutoModelForCausalLM
    config = load_config(folder, trust_remote_code=trust_remote_code)
    # then the files have other names and shapes than the loaded model
    quantised = values.get("quantization_config") is not None
    if not quantised:
        check_weights(kind, folder, config, trust_remote_code=trust_remote_code)
    quantizer: Any = quantizers.AutoHfQuantizer
    with reading(folder):
        if quantised and not quantizer.supports_quant_method(values["quantization_config"]):
            method = values["quantization_config"].get("quant_method")
            raise ModelError(f"{folder / 'config.json'}: transformers cannot read the quantisation {method!r}")
        model, info = kind.from_pretrained(
            folder,
            config=config,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
            **options,
        )
    if quantised:
        check_loaded(folder, info)
    check_numbers(model, folder)
    return model


def load_fitting_tokenizer(model: Any, folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model's folder, whose tokens all have an embedding.

    Args:
        model: What `load_model` or `check_weights` returned.
        folder: The model's.
        trust_remote_code: Whether to run code that lies there.

    Raises:
        ModelError: When it cannot be read, or belongs to another model.
    """
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    check_tokens(tokenizer, model.get_input_embeddings().weight.shape[0], folder)
    return tokenizer


def check_numbers(model: Any, folder: Path) -> None:
    """Refuse weights that are not finite, and a model of nothing but zeros.

    Args:
        model: The model.
        folder: Its own, or that of the adapter merged into it.

    Raises:
        ModelError: Counts and names the weights.
    """
    weights = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.is_floating_point() and not weight.is_meta and weight.numel()
    }
    with torch.inference_mode():
        ends = {name: [float(end) for end in weight.aminmax()] for name, weight in weights.items()}
    if broken := [name for name, pair in ends.items() if not all(map(math.isfinite, pair))]:
        raise ModelError(
            f"weights from {folder} are not finite in {weights[broken[0]].dtype}: {named(broken)}; take another "
            "checkpoint, or load it in the dtype that it was saved in"
        )
    if ends and not any(any(pair) for name, pair in ends.items() if weights[name].dim() > 1):
        raise ModelError(f"the weights in {folder} are all zeros; save or download them again")


def check_loaded(folder: Path, info: Mapping[str, Any], *, may_lack: str = "", may_hold_more: bool = False) -> None:
    """Check that a loaded model has exactly the weights in its files.

    Args:
        folder: The model's folder.
        info: From transformers' ``output_loading_info``.
        may_lack: Regular expression of the weights that may be missing; empty for none.
        may_hold_more: Whether the files may hold weights that the model does not have.

    Raises:
        ModelError: When weights are missing, left over or of another shape; counts them and names the first few.
    """
    missing = {key for key in info["missing_keys"] if not (may_lack and re.search(may_lack, key))}
    more = set() if may_hold_more else {key for key in info["unexpected_keys"] if not _COMPUTED.search(key)}
    shapes = {str(key[0]) for key in info["mismatched_keys"]}
    troubles = (("missing", missing), ("left over", more), ("of another shape", shapes))
    if found := [f"{words}: {named(keys)}" for words, keys in troubles if keys]:
        raise ModelError(
            f"the weights in {folder} do not fit its config.json; {'; '.join(found)}; use the files of one model, as "
            "they were saved"
        )


def check_weights(
    kind: Any,
    folder: Path,
    config: Any,
    *,
    may_lack: str = "",
    may_hold_more: bool = False,
    trust_remote_code: bool = False,
) -> Any:
    """Check that a folder's weights fit a transformers class, without reading them or allocating memory for them.

    Args:
        kind: The class, such as ``AutoModel``.
        folder: The model's folder.
        config: Its configuration.
        may_lack: As in `check_loaded`.
        may_hold_more: As in `check_loaded`.
        trust_remote_code: Whether to run code in the folder.

    Returns:
        The model without weights.

    Raises:
        ModelError: When they do not fit.
    """
    tables = {name: tensor for name, tensor in read_tensors(folder).items() if len(tensor.shape) > 1}
    if whole := [name for name, tensor in tables.items() if is_whole(tensor) and not _COMPUTED.search(name)]:
        raise ModelError(
            f"weights in {folder} are whole numbers ({tables[whole[0]].dtype}): {named(whole)}; without a "
            "quantization_config in config.json nothing says what they mean; take the files as they were saved"
        )
    with quiet_loading(), reading(folder):
        empty, info = kind.from_pretrained(
            folder,
            config=copy.deepcopy(config),
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # check_loaded counts them
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
        )
    check_loaded(folder, info, may_lack=may_lack, may_hold_more=may_hold_more)
    # transformers takes names with and without this prefix for the same weight
    bare = Counter(re.sub(rf"^({re.escape(empty.base_model_prefix)}\.)+", "", name) for name in read_tensors(folder))
    if twice := [name for name, count in bare.items() if count > 1]:
        raise ModelError(
            f"{folder} holds weights twice, with and without the prefix {empty.base_model_prefix}: {named(twice)}; "
            "take the files of one model, as they were saved"
        )
    return empty


def check_causal(folder: Path, config: Mapping[str, Any], *, trust_remote_code: bool = False) -> None:
    """Check by its configuration that a model is a causal language model, before anything is loaded.

    Args:
        folder: The model's folder.
        config: The content of its ``config.json``.
        trust_remote_code: Whether to accept a class whose code is in the folder.

    Raises:
        ModelError: When it is not; names the architecture.
    """
    names = config.get("architectures") or []
    kind = config.get("model_type")
    file = folder / "config.json"
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{file}: architectures must be a list of names, got {names!r}")
    own = config.get("auto_map")
    if trust_remote_code and isinstance(own, dict) and "AutoModelForCausalLM" in own:
        return
    known = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not names:
        causal = kind in known or kind not in CONFIG_MAPPING
    else:
        causal = names[0] in set(known.values()) or names[0].endswith("ForCausalLM")
    two_ways = kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and config.get("is_decoder") is not True
    if not causal or two_ways:
        found = f"{names[0]} ({file}: architectures)" if names else f"{kind} ({file}: model_type)"
        raise ModelError(
            f"{folder} is not a causal language model but a {found}; give a model such as a LlamaForCausalLM"
        )


def check_seeing(folder: Path, config: Mapping[str, Any], *, trust_remote_code: bool = False) -> None:
    """Check by its configuration that a model looks at pictures and writes text, before anything is loaded.

    Args:
        folder: The model's folder.
        config: The content of its ``config.json``.
        trust_remote_code: Whether to accept a class whose code is in the folder.

    Raises:
        InputError: When it does not; names the architecture.
    """
    own = config.get("auto_map")
    if trust_remote_code and isinstance(own, dict) and "AutoModelForImageTextToText" in own:
        return
    known = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    kind, names = str(config.get("model_type")), config.get("architectures")
    name = names[0] if isinstance(names, list) and names else known.get(kind)
    if kind not in known or name != known[kind] or config.get("is_encoder_decoder"):
        raise InputError(
            f"{folder} is a {name or kind} ({folder / 'config.json'}), which looks at no pictures; leave pictures out, "
            "or give a model such as a LlavaForConditionalGeneration",
            field="pictures",
        )


def find_adapter(adapter: str) -> Path:
    """The folder of a PEFT adapter, downloaded from the hub if needed, with its files checked.

    Args:
        adapter: Folder or hub name.

    Raises:
        ModelError: When there is none, or it is broken or of another kind.
    """
    folder = Path(adapter).expanduser()
    if not folder.is_dir():
        if folder.exists() or adapter.count("/") != 1 or adapter.startswith((".", "/", "~")):
            raise ModelError(f"no adapter {adapter!r}: neither a folder nor a hub name such as owner/name")
        folder = hub_adapter(adapter, Silent())
    check_adapter_files(folder)
    return folder


def check_base(adapter: Path, model: str, folder: Path) -> None:
    """Check against its manifest that an adapter was trained on this model's weights.

    Args:
        adapter: The adapter's folder.
        model: The model, as the caller named it.
        folder: The model's folder.

    Raises:
        ConfigError: When it was trained on others, or the manifest is broken.
        ModelError: When the model's weights cannot be read.
    """
    manifest = load_manifest(adapter)
    if manifest is not None:
        same = model in KNOWN_MODELS and model == manifest.base_model
        manifest.check_base(str(adapter), model, weights_fingerprint(folder), same_name=same)


def load_adapter(base: Any, adapter: Path, model: str | Path, **options: Any) -> Any:
    """A PEFT model with exactly the weights in the adapter's file: none missing, none left over.

    Args:
        base: The model that the adapter changes.
        adapter: The adapter's folder.
        model: The model's name, for messages.
        options: Options of PEFT's ``from_pretrained``, such as ``is_trainable``.

    Raises:
        ModelError: When the adapter is broken or does not fit; counts and names the weights that do not fit.
        MissingExtraError: When peft is not installed.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError:
        raise MissingExtraError("peft", "transformers") from None
    check_adapter_files(adapter)
    there = read_header(adapter / ADAPTER_WEIGHTS)
    _check_adapter_numbers(adapter / ADAPTER_WEIGHTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about missing keys, which are counted below
        try:
            adapted = PeftModel.from_pretrained(base, str(adapter), **options)
        except Exception as error:  # PEFT lets all kinds of errors through
            shapes = re.findall(r"size mismatch for ([\w.]+)", str(error))
            said = f"of another shape: {named(shapes)}" if shapes else " ".join(str(error).split())[:300]
            raise ModelError(f"the adapter {adapter} does not fit {model}; {said}") from error
        wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    more = there.keys() - wanted.keys() - adapted.state_dict().keys()
    missing = wanted.keys() - there.keys()
    troubles = (("missing", missing), ("without a place in the model", more))
    if found := [f"{words}: {named(keys)}" for words, keys in troubles if keys]:
        raise ModelError(
            f"the adapter {adapter} does not fit {model}: {len(wanted)} weights belong to it; {'; '.join(found)}; "
            "use the model it was trained on, and the files as PEFT saved them"
        )
    return adapted


def _check_adapter_numbers(file: Path) -> None:
    with reading(file), safe_open(file, framework="pt") as tensors:
        weights = ((name, tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118 - no dictionary
        broken = [name for name, weight in weights if not (weight.is_floating_point() and weight.isfinite().all())]
    if broken:
        raise ModelError(f"weights in {file} are not finite numbers: {named(broken)}; take another checkpoint")


def check_fit(folder: Path, adapter: Path | None, model: str, *, trust_remote_code: bool = False) -> None:
    """Check what `load_model` and `load_adapter` would check, without reading any weights.

    Quantised models, and classes that transformers does not have, are left to the engine that loads them.

    Args:
        folder: The model's folder.
        adapter: The folder of an adapter, or None.
        model: The model's name, for messages.
        trust_remote_code: Whether to run code in the model's folder.

    Raises:
        ModelError: When something does not fit.
    """
    values = check_files(folder)
    check_causal(folder, values, trust_remote_code=trust_remote_code)
    if values.get("quantization_config") is None:
        config = load_config(folder, trust_remote_code=trust_remote_code)
        empty = check_weights(AutoModelForCausalLM, folder, config, trust_remote_code=trust_remote_code)
        load_fitting_tokenizer(empty, folder, trust_remote_code=trust_remote_code)
        if adapter is not None:
            load_adapter(empty, adapter, model, low_cpu_mem_usage=True, torch_device="cpu")


def native_dtype(device: torch.device) -> torch.dtype:
    """The fastest dtype of a device: bfloat16 if it computes in it, else float16 on a GPU and float32 on the CPU."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_has_bfloat16() else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; oneDNN says yes also where it does without, half as fast."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        cpu: Any = torch.cpu
        return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def dtype_of_vllm(folder: Path) -> str:
    """The ``dtype`` for vLLM on this machine's CPU: ``auto``, or ``float32`` where that does not compute in bfloat16.

    There vLLM would still take the bfloat16 of the model's files, at half the speed. Quantised weights want ``auto``.

    Args:
        folder: The model's.

    Raises:
        ModelError: When its ``config.json`` cannot be read.
    """
    if native_dtype(torch.device("cpu")) != torch.float32 or quantised_by(folder, check_files(folder, weights=False)):
        return "auto"
    return "float32"


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a text, according to the model and its tokenizer."""
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return {end for end in (*ends, tokenizer.eos_token_id) if end is not None}


def _pack(model: Any) -> None:
    """Replace a model's linear layers with packed ones."""
    # torch.compile calls this operator itself, but it is not public
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    with torch.no_grad():
        replace_linear(model, _PackedLinear)


class _PackedLinear(torch.nn.Module):
    """A linear layer for bfloat16 on the CPU, whose weights oneDNN lays out once instead of at every call."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _PACKED_FOR)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], ""))
