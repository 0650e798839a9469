from importlib.util import find_spec

import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from pjd.errors import ParameterError
from pjd.measure.features import features
from pjd.measure.quality import (
    clip_score,
    inception,
    inception_score,
    kernel_distance,
    lite0_classes,
)
from pjd.measure.retrieval import LinearProbe, own_caption_in_best
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
    assert own_caption_in_best(scores, 1).all()
    assert not own_caption_in_best(scores[[1, 2, 3, 0]], 1).any()
    assert own_caption_in_best(scores[[1, 2, 3, 0]], 4).all()
    probe.save(tmp_path / "probe.safetensors")
    again = LinearProbe.load(tmp_path / "probe.safetensors", words)
    assert torch.equal(again.scores(seen[60:64], captions[60:64]), scores)


def test_clip_score_names_the_folder_that_it_needs(tmp_path):
    with pytest.raises(FileNotFoundError, match="the CLIP score needs a CLIP there"):
        clip_score(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), ["cat"], tmp_path / "clip")


def test_clip_score_is_torchmetrics_of_the_clip_in_the_folder(tmp_path):
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
    model.save_pretrained(tmp_path)
    letters = [chr(code) + end for code in range(97, 123) for end in ("", "</w>")]
    vocabulary = {
        token: i for i, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])
    }
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[])
    size = {"shortest_edge": 32}
    images = CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(tmp_path)

    pictures = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    prompts = ["cat", "a dog", "bird"]
    inputs = CLIPProcessor(images, tokenizer)(
        text=prompts, images=list(pictures.permute(0, 3, 1, 2)), return_tensors="pt", padding=True
    )
    with torch.no_grad():
        made = model(**inputs)
    cosine = (made.image_embeds * made.text_embeds).sum(-1)
    expected = float((100 * cosine).mean().clamp(min=0))
    assert clip_score(pictures, prompts, tmp_path, batch_size=2) == pytest.approx(
        expected, rel=1e-4
    )
    assert expected > 0
