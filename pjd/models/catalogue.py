"""The official checkpoints that the package knows, without torch: the command line lists them."""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from glob import escape, glob
from pathlib import Path

from pjd.models.files import faults, shards

INDEX = "model.safetensors.index.json"
"""The file that says which shard of a checkpoint has which tensor."""

LUMINA_TOKENIZER = "../lumina-mgpt-7b-768/tokenizer.json"

FILES = {
    "chameleon": ("config.json", f"tokenizer.json or {LUMINA_TOKENIZER}", "*.safetensors"),
    "imagegpt": (
        "config.json",
        "preprocessor_config.json",
        "model.safetensors or pytorch_model.bin",
    ),
    "glm_image": ("config.json", "tokenizer.json", "*.safetensors"),
    "emu3": ("config.json", "preprocessor_config.json", "tokenizer.json", "*.safetensors"),
    "janus": ("config.json", "generation_config.json", "tokenizer.json", "*.safetensors"),
    "liquid": ("config.json", "tokenizer.json", "*.safetensors"),
    "llamagen_official": ("?2i_*.safetensors or ?2i_*.pt",),
    "lumina_mgpt_2": ("config.json", "tokenizer.json", "tokenizer_config.json", "*.safetensors"),
    "simplear": ("config.json", "tokenizer.json", "*.safetensors"),
    "anole-7b": ("*.safetensors",),
    "cosmos-dv8x16x16": ("decoder.jit",),
    "flan-t5-xl": ("config.json", "tokenizer*", "*.safetensors"),
}
"""Files that a checkpoint of a family must have, by family; and files that a folder beside a
checkpoint must have, by folder. They are patterns; of "A or B" one is enough, and A is taken."""

LUMINA_SAMPLING: dict[str, float | int] = {"guidance": 3.0, "temperature": 1.0, "top_k": 2000}
LUMINA_MGPT_2_SAMPLING: dict[str, float | int] = {
    "guidance": 4.0,
    "temperature": 1.0,
    "top_k": 4096,
}
ANOLE_SAMPLING: dict[str, float | int] = {"guidance": 3.0, "temperature": 0.7, "top_p": 0.9}
JANUS_SAMPLING: dict[str, float | int] = {"guidance": 5.0, "temperature": 1.0}
EMU3_SAMPLING: dict[str, float | int] = {"guidance": 3.0, "temperature": 1.0, "top_k": 2048}
LIQUID_SAMPLING: dict[str, float | int] = {
    "guidance": 7.0,
    "temperature": 0.99,
    "top_k": 4096,
    "top_p": 0.96,
}
SIMPLEAR_SAMPLING: dict[str, float | int] = {"guidance": 6.0, "temperature": 1.0}
GLM_IMAGE_SAMPLING: dict[str, float | int] = {"temperature": 0.9, "top_p": 0.75}
IMAGEGPT_SAMPLING: dict[str, float | int] = {"temperature": 1.0, "top_k": 40}
LLAMAGEN_CLASS_SAMPLING: dict[str, float | int] = {"guidance": 4.0, "top_k": 2000}
LLAMAGEN_CAPTION_SAMPLING: dict[str, float | int] = {"guidance": 7.5, "top_k": 1000}
"""Defaults for options of :class:`pjd.decoder.config.DecodeConfig`, as in the official scripts
(Janus: in transformers' too; ImageGPT: on its card; GLM-Image: in its ``generation_config.json``).
The adapters take them from here."""


@dataclass(frozen=True)
class Checkpoint:
    """An official checkpoint.

    Attributes:
        family: the module of :mod:`pjd.models` whose ``load(name, folder, ...)`` reads it.
        rows: token rows R, of the last grid where there are several.
        columns: codes C per row.
        context: context tokens c that the paper uses for a grid of this size: those of its main
            table at 48 columns, else a quarter of the columns, as in its figure 9.
        parameters: of the transformer, as its authors give their number.
        sampling: the model's own defaults for options of
            :class:`pjd.decoder.config.DecodeConfig`.
        licence: of the weights, as their card names it.
        source: where to download it.
        beside: its parts that are in other folders beside its own: path by parameter of ``load``.
        dtype: of its arithmetic, unless another is asked for.
        images_together: images that are decoded together, unless another number is asked for.
        takes_prompts: whether a prompt says what its images show.
        grids: of codes in one sequence; the last one is the image.
    """

    family: str
    rows: int
    columns: int
    context: int
    parameters: float
    sampling: dict[str, float | int]
    licence: str
    source: str
    beside: dict[str, str] = field(default_factory=dict)
    dtype: str = "bfloat16"
    images_together: int = 1
    takes_prompts: bool = True
    grids: int = 1

    @property
    def takes_guidance(self) -> bool:
        """Whether there is an unconditional branch: then its sampling has a scale of guidance."""
        return "guidance" in self.sampling

    @property
    def guide(self) -> str:
        """The page that says which files it needs."""
        return f"docs/checkpoints_{self.family}.md"

    def needed(self, folder: Path) -> list[str]:
        """Names or patterns of the files that it needs, as in :data:`FILES`.

        Args:
            folder: the checkpoint's; files in folders beside it begin with "../".
        """
        needed = [*FILES[self.family]]
        if (folder / INDEX).exists():
            # An index that does not say which shards there are is named by faults().
            with suppress(ValueError):
                needed += sorted(set(shards(folder / INDEX).values()))
        elif "*.safetensors" in needed and not (folder / "model.safetensors").exists():
            needed.append(f"model.safetensors or {INDEX}")
        for path in self.beside.values():
            needed += (
                [f"../{path}/{file}" for file in FILES[path]]
                if path in FILES
                else [f"../{converted(Path(path))} or ../{path}"]
            )
        return needed

    def missing(self, folder: Path) -> list[str]:
        """The names or patterns of :meth:`needed` of which there is no file."""
        return [names for names in self.needed(folder) if not matching(folder, names)]

    def files(self, folder: Path) -> list[Path]:
        """The files that loading it reads, as far as they are there."""
        found = {path for names in self.needed(folder) for path in matching(folder, names)}
        index = folder / INDEX
        return sorted(found | ({index} if index.exists() else set()))

    def faults(self, folder: Path) -> list[str]:
        """A sentence for each file with which something is wrong, with what to do."""
        found = faults(self.files(folder))
        if (folder / INDEX).exists() and not found:
            try:
                shards(folder / INDEX)
            except ValueError as error:
                found.append(str(error))
        transformers = matching(folder, FILES["llamagen_official"][0])
        if len(transformers) > 1:
            names = ", ".join(file.name for file in transformers)
            found.append(f"{folder} holds {names}: leave one file of weights there")
        return found


def matching(folder: Path, names: str) -> list[Path]:
    """Files of the first alternative of "A or B" (see :data:`FILES`) that has any.

    Args:
        folder: which the names are relative to.
        names: alternatives.
    """
    for name in names.split(" or "):
        # A folder may be a link, and what is beside it is beside the link.
        found = sorted(glob(os.path.normpath(f"{escape(str(folder))}/{name}")))
        if found:
            return [Path(file) for file in found]
    return []


def converted(file: Path) -> Path:
    """Where `pjd convert` is told to write a torch file of a checkpoint: beside it."""
    return file.with_suffix(".safetensors")


LUMINA = "huggingface.co/Alpha-VLLM/Lumina-mGPT-7B-"
ANOLE = {"vq": "anole-7b"}
IMAGEGPT = "huggingface.co/openai/imagegpt-"
JANUS = "huggingface.co/deepseek-community/Janus-Pro-"
SIMPLEAR = "huggingface.co/Daniel0724/SimpleAR-"
LLAMAGEN = "huggingface.co/FoundationVision/LlamaGen"
LLAMAGEN_T2I = "huggingface.co/peizesun/llamagen_t2i"
NONE_NAMED = "none named"
CLASSES_VQ = {"vq": "llamagen-vq/vq_ds16_c2i.pt"}
CAPTIONS_VQ = {"vq": "llamagen-vq/vq_ds16_t2i.pt", "text": "flan-t5-xl"}


def lumina(side: int, context: int) -> Checkpoint:
    """Lumina-mGPT with ``side`` rows and columns."""
    source = f"{LUMINA}{16 * side}"
    grid = side, side, context
    return Checkpoint("chameleon", *grid, 7e9, LUMINA_SAMPLING, NONE_NAMED, source, ANOLE)


def janus(size: str, parameters: float) -> Checkpoint:
    """Janus-Pro of a size."""
    source, licence = f"{JANUS}{size}", "DeepSeek's own"
    return Checkpoint("janus", 24, 24, 6, parameters, JANUS_SAMPLING, licence, source)


def llamagen(side: int, parameters: float, captioned: bool = False) -> Checkpoint:
    """LlamaGen on classes or, if ``captioned``, on captions; a checkpoint has one of them."""
    sampling, source, beside = LLAMAGEN_CLASS_SAMPLING, LLAMAGEN, CLASSES_VQ
    if captioned:
        sampling, source, beside = LLAMAGEN_CAPTION_SAMPLING, LLAMAGEN_T2I, CAPTIONS_VQ
    sizes = side, side, side // 4, parameters
    return Checkpoint("llamagen_official", *sizes, sampling, "MIT", source, beside)


def simplear(size: str, parameters: float) -> Checkpoint:
    """SimpleAR of a size, as reinforcement learning left it."""
    source, beside = f"{SIMPLEAR}{size}-RL", {"vq": "cosmos-dv8x16x16"}
    sizes = 64, 64, 16, parameters
    return Checkpoint("simplear", *sizes, SIMPLEAR_SAMPLING, "MIT", source, beside)


def imagegpt(size: str, parameters: float, images_together: int) -> Checkpoint:
    """ImageGPT of a size: no prompt, 32x32 pixels, single precision."""
    return Checkpoint(
        "imagegpt",
        *(32, 32, 8, parameters),
        IMAGEGPT_SAMPLING,
        "Apache-2.0",
        f"{IMAGEGPT}{size}",
        dtype="float32",
        images_together=images_together,
        takes_prompts=False,
    )


CATALOGUE = {
    "imagegpt-small": imagegpt("small", 76e6, 8),
    "imagegpt-medium": imagegpt("medium", 455e6, 2),
    "imagegpt-large": imagegpt("large", 1.36e9, 1),
    "lumina-mgpt-7b-512": lumina(32, 8),
    "lumina-mgpt-7b-768": lumina(48, 11),
    "lumina-mgpt-7b-1024": lumina(64, 16),
    "lumina-mgpt-2-7b": Checkpoint(
        "lumina_mgpt_2",
        *(96, 96, 24, 7e9),
        LUMINA_MGPT_2_SAMPLING,
        "Apache-2.0",
        "huggingface.co/Alpha-VLLM/Lumina-mGPT-2.0",
        {"vq": "movqgan/movqgan_270M.ckpt"},
    ),
    "anole-7b": Checkpoint(
        "chameleon",
        *(32, 32, 8, 7e9),
        ANOLE_SAMPLING,
        "Chameleon's, for research",
        "huggingface.co/leloy/Anole-7b-v0.1-hf",
    ),
    "janus-pro-1b": janus("1B", 1.5e9),
    "janus-pro-7b": janus("7B", 7e9),
    "emu3-gen": Checkpoint(
        "emu3",
        *(90, 90, 22, 8.5e9),
        EMU3_SAMPLING,
        "Apache-2.0",
        "huggingface.co/BAAI/Emu3-Gen-hf",
    ),
    "simplear-0.5b": simplear("0.5B", 0.5e9),
    "simplear-1.5b": simplear("1.5B", 1.5e9),
    "glm-image": Checkpoint(
        "glm_image",
        *(32, 32, 8, 9e9),
        GLM_IMAGE_SAMPLING,
        "MIT",
        "huggingface.co/zai-org/GLM-Image",
        grids=2,
    ),
    "liquid-7b": Checkpoint(
        "liquid",
        *(32, 32, 8, 7e9),
        LIQUID_SAMPLING,
        "MIT, and Gemma's terms",
        "huggingface.co/Junfeng5/Liquid_V1_7B",
        ANOLE,
    ),
    "llamagen-c2i-b-256": llamagen(16, 111e6),
    "llamagen-c2i-b-384": llamagen(24, 111e6),
    "llamagen-c2i-l-256": llamagen(16, 343e6),
    "llamagen-c2i-l-384": llamagen(24, 343e6),
    "llamagen-c2i-xl-384": llamagen(24, 775e6),
    "llamagen-c2i-xxl-384": llamagen(24, 1.4e9),
    "llamagen-c2i-3b-384": llamagen(24, 3.1e9),
    "llamagen-t2i-xl-256": llamagen(16, 775e6, captioned=True),
    "llamagen-t2i-xl-512": llamagen(32, 775e6, captioned=True),
}
"""By the name that :func:`pjd.load` takes; their folders in ``weights/`` have the same names."""
