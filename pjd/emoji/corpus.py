"""The emoji corpus: five open-licence icon sets in one table of 128x128 icons with captions.

It is built from pinned npm packages and is deterministic. ``docs/data_card.md`` has licences and
counts.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from pjd.models.captions import Words

SIZE = 128


@dataclass(frozen=True)
class IconSet:
    """One source of icons, pinned.

    Attributes:
        style: the words that name the set in captions.
        package: npm package.
        version: its version.
        sha256: of the package's archive.
        licence: SPDX identifier.
        attribution: the credit that the licence asks for.
    """

    style: str
    package: str
    version: str
    sha256: str
    licence: str
    attribution: str

    @property
    def archive(self) -> str:
        """The file name that ``npm pack`` gives the package."""
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


SETS = (
    IconSet(
        "noto",
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0",
        "Noto Emoji by Google Inc.",
    ),
    IconSet(
        "fluent",
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        "MIT",
        "Fluent Emoji by Microsoft Corporation",
    ),
    IconSet(
        "twemoji",
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "CC-BY-4.0",
        "Twitter Emoji by Twitter",
    ),
    IconSet(
        "openmoji",
        "@iconify-json/openmoji",
        "1.2.29",
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        "CC-BY-SA-4.0",
        "OpenMoji, the open-source emoji and icon project",
    ),
    IconSet(
        "fluent 3d",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "MIT",
        "Fluent Emoji 3D by Microsoft Corporation, packaged by LobeHub",
    ),
)

# Vertical gradients, top to bottom, muted so that icons stand out against them.
BACKGROUNDS = {
    "white": ((255, 255, 255), (243, 243, 246)),
    "grey": ((196, 198, 204), (162, 165, 172)),
    "black": ((58, 58, 64), (28, 28, 32)),
    "red": ((236, 150, 146), (214, 112, 110)),
    "orange": ((250, 200, 150), (238, 168, 108)),
    "yellow": ((252, 238, 170), (242, 220, 128)),
    "green": ((178, 222, 172), (136, 194, 134)),
    "teal": ((150, 214, 208), (104, 182, 178)),
    "blue": ((164, 200, 242), (118, 164, 222)),
    "purple": ((206, 182, 238), (172, 144, 216)),
    "pink": ((250, 202, 222), (236, 166, 198)),
    "brown": ((202, 176, 152), (168, 138, 112)),
}

_TONE = re.compile(
    r"-(light|medium-light|medium|medium-dark|dark)-skin-tone|-tone[1-5]\b|^regional-indicator"
)
_FLUENT_TONE = re.compile(r"-(light|medium-light|medium|medium-dark|dark)\b")


def download(folder: Path) -> None:
    """Fetch the pinned packages into ``folder`` with npm, and check them.

    Raises:
        RuntimeError: if npm fails or an archive's sha256 is not the pinned one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for source in tqdm(SETS, desc="downloading"):
        path = folder / source.archive
        if not path.exists():
            command = ["npm", "pack", "--silent", f"{source.package}@{source.version}"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != source.sha256:
            raise RuntimeError(
                f"{path.name} has sha256 {digest}, expected {source.sha256}: delete it and retry"
            )


def _members(path: Path, wanted: str) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {
            member.name.removeprefix("package/"): content.read()
            for member in archive
            if re.search(wanted, member.name) and (content := archive.extractfile(member))
        }


def _plain(codepoints: str) -> str:
    """Codepoints without the presentation selector, which the sets use inconsistently."""
    return "-".join(p.lstrip("0") for p in codepoints.lower().split("-") if p != "fe0f")


def _slug_words(slug: str) -> str:
    words = re.sub(r"^flag-for-(flag-)?", "flag-", slug).split("-")
    return " ".join(words)


def _sources(folder: Path) -> list[tuple[str, str, bytes]]:
    """Every icon of the corpus, as (name, style, SVG or WebP bytes)."""
    icons: dict[str, dict] = {}
    chars: dict[str, dict[str, str]] = {}
    for source in SETS[:4]:
        files = _members(folder / source.archive, r"/(icons|chars)\.json$")
        icons[source.style] = json.loads(files["icons.json"])
        chars[source.style] = json.loads(files["chars.json"])
    # One name per emoji: OpenMoji's where it has one, since its names are the most regular.
    names: dict[str, str] = {}
    for style in ("openmoji", "noto", "twemoji"):
        for codepoints, slug in chars[style].items():
            names.setdefault(_plain(codepoints), _slug_words(slug))
    known = {name.replace(" ", "-") for name in names.values()}
    result: list[tuple[str, str, bytes]] = []
    for style, table in icons.items():
        slugs = {slug: _plain(codepoints) for codepoints, slug in chars[style].items()}
        for slug, icon in table["icons"].items():
            toned = _TONE.search(slug) or (
                style == "fluent" and _toned_fluent(slug, table["icons"], known)
            )
            # Icons at private-use codepoints are no emoji, and only one set has them.
            private = slugs.get(slug, "").startswith(("e", "f"))
            if icon.get("hidden") or toned or private:
                continue
            width, height = icon.get("width", table["width"]), icon.get("height", table["height"])
            svg = (
                f'<svg xmlns="http://www.w3.org/2000/svg" '
                f'xmlns:xlink="http://www.w3.org/1999/xlink" width="{SIZE}" height="{SIZE}" '
                f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">'
                f"{icon['body']}</svg>"
            )
            result.append((names.get(slugs.get(slug, ""), _slug_words(slug)), style, svg.encode()))
    renders = _members(folder / SETS[4].archive, r"/assets/.*\.webp$")
    for path, content in renders.items():
        name = names.get(_plain(Path(path).stem))
        if name is not None and not _TONE.search(name.replace(" ", "-")):
            result.append((name, SETS[4].style, content))
    return result


def _toned_fluent(slug: str, icons: dict, known: set[str]) -> bool:
    """Whether a Fluent icon has a skin tone: a known name with "-dark" or the like behind it."""
    bare = _FLUENT_TONE.sub("", slug)
    return slug not in known and bare != slug and (bare in icons or bare in known)


def _rasterise(icon: tuple[str, str, bytes]) -> tuple[str, str, bytes, float] | None:
    """Name, style, WebP and share of opaque pixels of an icon; None if it is blank."""
    import resvg_py

    name, style, content = icon
    if content.startswith(b"<svg"):
        content = bytes(resvg_py.svg_to_bytes(svg_string=content.decode(), width=SIZE, height=SIZE))
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    if image.size != (SIZE, SIZE):
        image = Image.fromarray(resize(np.asarray(image), SIZE))
    covered = float((np.asarray(image)[..., 3] > 127).mean())
    if covered < 0.01:
        return None
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=88, method=4, alpha_quality=100)
    return name, style, buffer.getvalue(), covered


def build(folder: Path, output: Path) -> pd.DataFrame:
    """Rasterise the downloaded packages in ``folder`` and write the table to ``output``.

    Skin-tone variants, hidden icons, aliases, icons of no emoji and exact duplicates of another
    icon of the same style are dropped.

    Returns:
        The table, sorted by style and name: name, style, split, image (WebP, RGBA, 128x128) and
        covered (share of opaque pixels, which is not written).
    """
    icons = sorted(_sources(folder))
    with ProcessPoolExecutor(2) as pool:
        work = pool.map(_rasterise, icons, chunksize=32)
        rows = [row for row in tqdm(work, total=len(icons), desc="rasterising") if row]
    table = pd.DataFrame(rows, columns=["name", "style", "image", "covered"])
    table = table.drop_duplicates(["style", "name"]).drop_duplicates(["style", "image"])
    table = table.sort_values(["style", "name"], ignore_index=True)
    table.insert(2, "split", split(table))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial")
    table.drop(columns="covered").to_parquet(partial, index=False, compression="zstd")
    os.replace(partial, output)
    return table


def _chance(*parts: str) -> float:
    """A number in [0, 1) that depends on ``parts`` alone."""
    digest = hashlib.sha256("|".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split(table: pd.DataFrame) -> list[str]:
    """Assign each (name, style) to "train", "unseen-name" or "unseen-style".

    Unseen names are held out in every style; each of their words occurs in at least three
    training names, so that the vocabulary has them. Unseen styles are single (name, style) pairs
    whose name stays in training in two other styles or more; the two fluent sets look similar, so
    they are held out together.
    """
    styles = table.groupby("name")["style"].agg(set)
    counts: dict[str, int] = {}
    for name in styles.index:
        for word in set(name.split()):
            counts[word] = counts.get(word, 0) + 1
    unseen: set[str] = set()
    for name in sorted(styles.index, key=lambda name: _chance("name", name)):
        words = set(name.split())
        common = len(words) >= 2 and all(counts[word] > 3 for word in words)
        if common and len(styles[name]) >= 2 and len(unseen) < 80:
            unseen.add(name)
            for word in words:
                counts[word] -= 1
    pairs: set[tuple[str, str]] = set()
    for name in styles.index:
        if name in unseen or _chance("pair", name) > 0.2:
            continue
        chosen = sorted(styles[name], key=lambda style: _chance("style", name, style))[0]
        group = {"fluent", "fluent 3d"} if chosen.startswith("fluent") else {chosen}
        if len(styles[name] - group) >= 2:
            pairs |= {(name, style) for style in group & styles[name]}
    return [
        "unseen-name" if name in unseen else "unseen-style" if (name, style) in pairs else "train"
        for name, style in zip(table["name"], table["style"], strict=True)
    ]


def prompts(table: pd.DataFrame, count: int = 512) -> dict[str, list[str]]:
    """``count`` captions per split, in a fixed random order, with backgrounds in turn."""
    grounds = list(BACKGROUNDS)
    result = {}
    for group in ("train", "unseen-style", "unseen-name"):
        rows = table[table.split == group][["name", "style"]].itertuples(index=False)
        pairs = sorted(rows, key=lambda pair: _chance("prompt", *pair))
        captions = []
        for number in range(count):
            name, style = pairs[number % len(pairs)]
            start = int(_chance("ground", name, style) * len(grounds))
            turn = number // len(pairs)
            captions.append(caption(name, style, grounds[(start + turn) % len(grounds)]))
        result[group] = captions
    return result


def vocabulary(table: pd.DataFrame) -> list[str]:
    """Words of all training captions, sorted."""
    texts = [*table["name"][table.split == "train"], *table["style"].unique(), *BACKGROUNDS, "on"]
    return sorted({word for text in texts for word in Words.split(text)})


def load(path: Path) -> pd.DataFrame:
    """Read the table that :func:`build` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated or is not parquet.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"no corpus at {path}: run `dvc pull`, or notebooks/01_corpus.ipynb"
        )
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and run `dvc pull`") from error


def decode(image: bytes) -> np.ndarray:
    """Pixels uint8 [128, 128, 4], RGBA, of an image of the table."""
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGBA"))


def resize(rgba: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 [H, W, 4] to [size, size, 4], antialiased.

    Pillow weights colours by their alpha, so transparent pixels do not colour the edges.
    """
    return np.asarray(Image.fromarray(rgba).resize((size, size), Image.Resampling.BICUBIC))


def background(name: str, size: int) -> np.ndarray:
    """The named background, uint8 [size, size, 3]."""
    top, bottom = np.array(BACKGROUNDS[name], dtype=np.float64)
    blend = np.linspace(0, 1, size)[:, None]
    column = top * (1 - blend) + bottom * blend
    return np.repeat(column.round().astype(np.uint8)[:, None], size, axis=1)


def composite(rgba: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Lay uint8 [H, W, 4] over uint8 [H, W, 3]."""
    alpha = rgba[..., 3:].astype(np.float64) / 255
    return (rgba[..., :3] * alpha + ground * (1 - alpha)).round().astype(np.uint8)


def caption(name: str, style: str, ground: str) -> str:
    """The caption of a (name, style) on a background."""
    return f"{name}, {style}, on {ground}"
