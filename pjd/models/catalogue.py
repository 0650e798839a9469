"""The official checkpoints that the package knows. No torch here: the command line asks."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Checkpoint:
    """An official checkpoint.

    Attributes:
        family: the module of :mod:`pjd.models` whose ``load(name, folder, ...)`` reads it.
        rows: token rows R.
        columns: image codes C a row.
        context: context tokens c that the paper uses for a grid of this size: its main table at
            48 columns, its figure 9 (a quarter of the columns) at others.
        source: where it is to be had.
        beside: files that lie in other folders of ``weights/``: parameter of ``load``, and path.
    """

    family: str
    rows: int
    columns: int
    context: int
    source: str
    beside: dict[str, str] = field(default_factory=dict)

    @property
    def guide(self) -> str:
        """The page that says which files it needs."""
        return f"docs/checkpoints_{self.family}.md"


LUMINA = "huggingface.co/Alpha-VLLM/Lumina-mGPT-7B-"
ANOLE = {"vq": "anole-7b"}
JANUS = "huggingface.co/deepseek-community/Janus-Pro-"
LLAMAGEN = "huggingface.co/FoundationVision/LlamaGen"
LLAMAGEN_T2I = "huggingface.co/peizesun/llamagen_t2i"
CLASSES_VQ = {"vq": "llamagen-vq/vq_ds16_c2i.pt"}
CAPTIONS_VQ = {"vq": "llamagen-vq/vq_ds16_t2i.pt", "text": "flan-t5-xl"}


def llamagen(side: int, captioned: bool = False) -> Checkpoint:
    """A LlamaGen checkpoint with ``side`` rows and columns; c is a quarter of them."""
    source, beside = (LLAMAGEN_T2I, CAPTIONS_VQ) if captioned else (LLAMAGEN, CLASSES_VQ)
    return Checkpoint("llamagen_official", side, side, side // 4, source, beside)


CATALOGUE = {
    "lumina-mgpt-7b-512": Checkpoint("chameleon", 32, 32, 8, LUMINA + "512", ANOLE),
    "lumina-mgpt-7b-768": Checkpoint("chameleon", 48, 48, 11, LUMINA + "768", ANOLE),
    "lumina-mgpt-7b-1024": Checkpoint("chameleon", 64, 64, 16, LUMINA + "1024", ANOLE),
    "anole-7b": Checkpoint("chameleon", 32, 32, 8, "huggingface.co/leloy/Anole-7b-v0.1-hf"),
    "janus-pro-1b": Checkpoint("janus", 24, 24, 6, JANUS + "1B"),
    "janus-pro-7b": Checkpoint("janus", 24, 24, 6, JANUS + "7B"),
    "emu3-gen": Checkpoint("emu3", 90, 90, 22, "huggingface.co/BAAI/Emu3-Gen-hf"),
    "llamagen-c2i-b-256": llamagen(16),
    "llamagen-c2i-b-384": llamagen(24),
    "llamagen-c2i-l-256": llamagen(16),
    "llamagen-c2i-l-384": llamagen(24),
    "llamagen-c2i-xl-384": llamagen(24),
    "llamagen-t2i-xl-256": llamagen(16, captioned=True),
    "llamagen-t2i-xl-512": llamagen(32, captioned=True),
}
"""By the name that :func:`pjd.load` takes; their folders in ``weights/`` have the same."""
