"""The official checkpoints that the package knows. No torch here: the command line asks."""

import json
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path

INDEX = "model.safetensors.index.json"
LUMINA_TOKENIZER = "../lumina-mgpt-7b-768/tokenizer.json"

FILES = {
    "chameleon": ("config.json", f"tokenizer.json or {LUMINA_TOKENIZER}", "*.safetensors"),
    "emu3": ("config.json", "preprocessor_config.json", "tokenizer.json", "*.safetensors"),
    "janus": ("config.json", "generation_config.json", "tokenizer.json", "*.safetensors"),
    "llamagen_official": ("?2i_*.pt or ?2i_*.safetensors",),
    "anole-7b": ("*.safetensors",),
    "flan-t5-xl": ("config.json", "tokenizer*", "*.safetensors"),
}
"""Files that a checkpoint of a family needs, or that others need of a folder beside theirs."""


@dataclass(frozen=True)
class Checkpoint:
    """An official checkpoint.

    Attributes:
        family: the module of :mod:`pjd.models` whose ``load(name, folder, ...)`` reads it.
        rows: token rows R.
        columns: image codes C a row.
        context: context tokens c that the paper uses for a grid of this size: its main table at
            48 columns, its figure 9 (a quarter of the columns) at others.
        memory: GiB for one image at a time in bfloat16, with what loading takes: computed from
            sizes, not measured.
        sampling: the model's own defaults, as its module has them, for options of
            :class:`pjd.decoder.config.DecodeConfig`.
        source: where it is to be had.
        beside: files that lie in other folders beside its own: parameter of ``load``, and path.
    """

    family: str
    rows: int
    columns: int
    context: int
    memory: int
    sampling: dict[str, float | int]
    source: str
    beside: dict[str, str] = field(default_factory=dict)

    @property
    def guide(self) -> str:
        """The page that says which files it needs."""
        return f"docs/checkpoints_{self.family}.md"

    def missing(self, folder: Path) -> list[str]:
        """What it needs and ``folder``, or a folder beside it, lacks: names or patterns."""
        needed = [*FILES[self.family]]
        if (folder / INDEX).exists():
            needed += sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        for path in self.beside.values():
            needed += (
                [f"../{path}/{file}" for file in FILES[path]] if path in FILES else [f"../{path}"]
            )
        return [
            names
            for names in needed
            if not any(glob(name, root_dir=folder) for name in names.split(" or "))
        ]


LUMINA = "huggingface.co/Alpha-VLLM/Lumina-mGPT-7B-"
LUMINA_SAMPLING = {"guidance": 3.0, "temperature": 1.0, "top_k": 2000}
ANOLE = {"vq": "anole-7b"}
JANUS = "huggingface.co/deepseek-community/Janus-Pro-"
LLAMAGEN = "huggingface.co/FoundationVision/LlamaGen"
LLAMAGEN_T2I = "huggingface.co/peizesun/llamagen_t2i"
CLASSES_VQ = {"vq": "llamagen-vq/vq_ds16_c2i.pt"}
CAPTIONS_VQ = {"vq": "llamagen-vq/vq_ds16_t2i.pt", "text": "flan-t5-xl"}


def lumina(side: int, context: int, memory: int) -> Checkpoint:
    """Lumina-mGPT with ``side`` rows and columns."""
    source = f"{LUMINA}{16 * side}"
    return Checkpoint("chameleon", side, side, context, memory, LUMINA_SAMPLING, source, ANOLE)


def janus(size: str, memory: int) -> Checkpoint:
    """Janus-Pro of a size."""
    sampling = {"guidance": 5.0, "temperature": 1.0}
    return Checkpoint("janus", 24, 24, 6, memory, sampling, JANUS + size)


def llamagen(side: int, memory: int, captioned: bool = False) -> Checkpoint:
    """A LlamaGen checkpoint with ``side`` rows and columns; c is a quarter of them."""
    source, beside = (LLAMAGEN_T2I, CAPTIONS_VQ) if captioned else (LLAMAGEN, CLASSES_VQ)
    guidance, top_k = (7.5, 1000) if captioned else (4.0, 2000)
    sampling = {"guidance": guidance, "top_k": top_k}
    return Checkpoint("llamagen_official", side, side, side // 4, memory, sampling, source, beside)


CATALOGUE = {
    "lumina-mgpt-7b-512": lumina(32, 8, 16),
    "lumina-mgpt-7b-768": lumina(48, 11, 17),
    "lumina-mgpt-7b-1024": lumina(64, 16, 20),
    "anole-7b": Checkpoint(
        "chameleon",
        32,
        32,
        8,
        16,
        {"guidance": 3.0, "temperature": 0.7, "top_p": 0.9},
        "huggingface.co/leloy/Anole-7b-v0.1-hf",
    ),
    "janus-pro-1b": janus("1B", 5),
    "janus-pro-7b": janus("7B", 17),
    "emu3-gen": Checkpoint(
        "emu3",
        90,
        90,
        22,
        20,
        {"guidance": 3.0, "temperature": 1.0, "top_k": 2048},
        "huggingface.co/BAAI/Emu3-Gen-hf",
    ),
    "llamagen-c2i-b-256": llamagen(16, 2),
    "llamagen-c2i-b-384": llamagen(24, 2),
    "llamagen-c2i-l-256": llamagen(16, 2),
    "llamagen-c2i-l-384": llamagen(24, 2),
    "llamagen-c2i-xl-384": llamagen(24, 3),
    "llamagen-t2i-xl-256": llamagen(16, 6, captioned=True),
    "llamagen-t2i-xl-512": llamagen(32, 6, captioned=True),
}
"""By the name that :func:`pjd.load` takes; their folders in ``weights/`` have the same."""
