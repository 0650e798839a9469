from importlib.util import find_spec

import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from pjd.errors import ParameterError
from pjd.measure.features import features, frechet
from pjd.measure.published import clip_score, inception
from pjd.measure.quality import inception_score, kernel_distance, lite0_classes
from pjd.measure.retrieval import LinearProbe, rank_of_own_caption, shares_found
from pjd.models.captions import Words


def test_kernel_distance_is_small_for_one_distribution_and_grows_with_the_shift():
    torch.manual_seed(0)
    first, second = torch.randn(2, 400, 16)
    same = kernel_distance(first, second)
    assert same.low < 0 < same.high
    near, far = (kernel_distance(first, second + shift).mean for shift in (0.5, 1.0))
    assert same.high < near < far
    assert kernel_distance(first, second) == same


def test_inception_score_is_one_for_equal_pictures_and_more_for_different_ones():
    torch.manual_seed(0)
    equal = features(torch.full((1, 32, 32, 3), 128, dtype=torch.uint8)).expand(20, -1)
    assert inception_score(lite0_classes(equal), splits=2).mean == pytest.approx(1, abs=1e-4)
    noise = features(torch.randint(256, (20, 32, 32, 3), dtype=torch.uint8))
    varied = lite0_classes(equal + 3 * (noise - noise.mean(0)))
    assert inception_score(varied, splits=2).mean > 1.05


def test_inception_names_what_it_needs(tmp_path):
    pictures, weights = torch.zeros(1, 8, 8, 3, dtype=torch.uint8), tmp_path / "weights.pth"
    with pytest.raises(FileNotFoundError, match="needs Inception's weights there"):
        inception(pictures, weights, "2048")
    weights.touch()
    if find_spec("torch_fidelity") is None:
        with pytest.raises(ParameterError, match="pip install torch-fidelity"):
            inception(pictures, weights, "2048")


def test_the_probe_finds_captions_of_pictures_that_it_has_not_seen(tmp_path):
    torch.manual_seed(0)
    words = Words(["red", "blue", "cat", "dog"], length=4)
    captions = ["red cat", "red dog", "blue cat", "blue dog"] * 20
    # A feature for each word, mixed, and noise.
    signal = torch.tensor([[float(w in c.split()) for w in words.vocabulary] for c in captions])
    seen = signal @ torch.randn(4, 12) + 0.05 * torch.randn(80, 12)
    probe = LinearProbe.fit(seen[:60], captions[:60], words)
    scores = probe.scores(seen[60:64], captions[60:64])
    assert rank_of_own_caption(scores).tolist() == [0, 0, 0, 0]
    moved = rank_of_own_caption(scores[[1, 2, 3, 0]])
    assert moved.min() >= 1 and moved.max() <= 3
    shares = shares_found(torch.cat([rank_of_own_caption(scores), moved]).numpy())
    assert shares["caption_best_1"] == 0.5 and shares["caption_best_10"] == 1
    probe.save(tmp_path / "probe.safetensors")
    again = LinearProbe.load(tmp_path / "probe.safetensors", words)
    assert torch.equal(again.scores(seen[60:64], captions[60:64]), scores)


def test_clip_score_names_the_folder_that_it_needs(tmp_path):
    with pytest.raises(FileNotFoundError, match="the CLIP score needs a CLIP there"):
        clip_score(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), ["cat"], tmp_path / "clip")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP, its processor, and the folder that it is in."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2}
    model = CLIPModel(
        CLIPConfig(
            text_config={**size, "vocab_size": 60, "eos_token_id": 1, "bos_token_id": 0},
            vision_config={**size, "image_size": 32, "patch_size": 8},
            projection_dim=8,
        )
    ).eval()
    model.save_pretrained(folder)
    letters = [chr(code) + end for code in range(97, 123) for end in ("", "</w>")]
    vocabulary = {
        token: i for i, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])
    }
    size = {"shortest_edge": 32}
    images = CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32})
    processor = CLIPProcessor(images, CLIPTokenizer(vocab=vocabulary, merges=[]))
    processor.save_pretrained(folder)
    return model, processor, folder


def cosine(clip, pictures: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """By transformers itself, its tokenizer cutting what is too long: float [pictures]."""
    model, processor, _ = clip
    images = list(pictures.permute(0, 3, 1, 2))
    more = {"padding": True, "truncation": True, "max_length": 77}
    with torch.no_grad():
        made = model(**processor(text=prompts, images=images, return_tensors="pt", **more))
    return (made.image_embeds * made.text_embeds).sum(-1)


def test_clip_score_is_torchmetrics_of_the_clip_in_the_folder(clip):
    pictures = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    prompts = ["cat", "a dog", "bird"]
    expected = float((100 * cosine(clip, pictures, prompts)).mean().clamp(min=0))
    found = clip_score(pictures, prompts, clip[2], batch_size=2)
    assert found == pytest.approx(expected, rel=1e-4) and expected > 0


@pytest.mark.parametrize(("letters", "cut"), [(75, 0), (76, 1), (123, 1)])
def test_a_prompt_that_is_too_long_for_clip_keeps_its_end_token(clip, letters, cut, recwarn):
    pictures = torch.randint(256, (8, 32, 32, 3), dtype=torch.uint8)
    prompts = ["x " * letters] + 7 * ["cat"]
    # The sign of the score depends on the end token: every picture's own score, by turns.
    for picture in pictures:
        expected = 100 * float(cosine(clip, picture[None], prompts[:1]))
        found = clip_score(picture[None], prompts[:1], clip[2])
        assert found == pytest.approx(max(expected, 0), abs=1e-3)
    clip_score(pictures, prompts, clip[2])
    said = [str(w.message) for w in recwarn if "of 8 prompts have more" in str(w.message)]
    assert said == (["1 of 8 prompts have more than CLIP's 77 tokens: cut"] if cut else [])


@pytest.mark.parametrize("images", [1, 3])
def test_too_few_images_are_refused_by_name(images):
    few = torch.randn(images, 16)
    with pytest.raises(ParameterError, match=f"images = {images}: must be at least 4"):
        kernel_distance(few, few)
    with pytest.raises(ParameterError, match=f"images = {images}: must be at least 20"):
        inception_score(few)
    if images == 1:
        with pytest.raises(ParameterError, match="images = 1: must be at least 2"):
            frechet(few, torch.randn(8, 16))
