"""The image decoder of MoVQGAN, against the same network written out by the names of its parts."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import ChameleonVQVAEConfig

from pjd.models.movq import MOVQ_270M, MoVQ, load_movq

CODES = 16
CONFIG = ChameleonVQVAEConfig(
    num_embeddings=CODES,
    embed_dim=4,
    latent_channels=4,
    resolution=256,
    base_channels=32,
    channel_multiplier=[1, 2, 2, 4],
    num_res_blocks=1,
    attn_resolutions=[32],
)


def tiny_movq() -> MoVQ:
    """Random weights with which every part matters."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        vq = MoVQ(CONFIG)
        for name, parameter in vq.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(parameter, mean=float("conv_y.bias" in name), std=0.3)
    return vq


def reference(tensors: dict[str, Tensor], codes: Tensor, levels: int, blocks: int) -> Tensor:
    """Images float [1, 3, height, width] of codes int64 [R, C], step by step."""
    vectors = tensors["quantize.embedding.weight"][codes].permute(2, 0, 1)[None]

    def convolve(name: str, x: Tensor) -> Tensor:
        weight = tensors[f"{name}.weight"]
        return F.conv2d(x, weight, tensors[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        factor = x.shape[-1] // vectors.shape[-1]
        places = vectors.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        own = [tensors[f"{name}.norm_layer.{part}"] for part in ("weight", "bias")]
        normal = F.group_norm(x, 32, *own, eps=1e-6)
        return normal * convolve(f"{name}.conv_y", places) + convolve(f"{name}.conv_b", places)

    def swish(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    def block(name: str, x: Tensor) -> Tensor:
        inner = convolve(f"{name}.conv1", swish(norm(f"{name}.norm1", x)))
        inner = convolve(f"{name}.conv2", swish(norm(f"{name}.norm2", inner)))
        if f"{name}.nin_shortcut.weight" in tensors:
            x = convolve(f"{name}.nin_shortcut", x)
        return x + inner

    def attention(name: str, x: Tensor) -> Tensor:
        inner = norm(f"{name}.norm", x)
        query, key, value = (convolve(f"{name}.{part}", inner).flatten(2) for part in "qkv")
        weights = torch.softmax(query.transpose(1, 2) @ key / x.shape[1] ** 0.5, dim=2)
        return x + convolve(f"{name}.proj_out", (value @ weights.transpose(1, 2)).view_as(x))

    x = convolve("decoder.conv_in", convolve("post_quant_conv", vectors))
    x = block("decoder.mid.block_1", x)
    x = attention("decoder.mid.attn_1", x)
    x = block("decoder.mid.block_2", x)
    for level in reversed(range(levels)):
        for number in range(blocks + 1):
            x = block(f"decoder.up.{level}.block.{number}", x)
            if level == levels - 1:
                x = attention(f"decoder.up.{level}.attn.{number}", x)
        if level > 0:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = convolve(f"decoder.up.{level}.upsample.conv", x)
    return convolve("decoder.conv_out", swish(norm("decoder.norm_out", x)))


@torch.no_grad()
def test_pixels_equal_the_network_written_out():
    vq = tiny_movq()
    codes = torch.randint(CODES, (3, 5), generator=torch.Generator().manual_seed(1))
    expected = reference(vq.state_dict(), codes, levels=4, blocks=1)
    vectors = vq.quantize.embedding(codes[None]).permute(0, 3, 1, 2)
    images = vq.decoder(vq.post_quant_conv(vectors), vectors)
    assert images.std() > 0.1
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=1e-4)
    pixels = vq(codes[None])
    assert pixels.shape == (1, 24, 40, 3) and pixels.dtype == torch.uint8 and vq.reduction == 8
    rounded = ((expected[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
    assert (pixels[0] - rounded).abs().max() <= 1
    # The vectors reach the pixels by the norms, not only by the latents.
    silent = vq.decoder(vq.post_quant_conv(vectors), torch.zeros_like(vectors))
    assert (silent - images).abs().max() > 0.1


def test_the_sizes_are_those_of_the_official_model():
    with torch.device("meta"):
        vq = MoVQ(MOVQ_270M)
    shapes = {name: tuple(tensor.shape) for name, tensor in vq.state_dict().items()}
    assert shapes["quantize.embedding.weight"] == (16_384, 4)
    assert shapes["decoder.conv_in.weight"] == (1024, 4, 3, 3)
    assert shapes["decoder.up.3.attn.2.norm.conv_b.weight"] == (1024, 4, 1, 1)
    assert shapes["decoder.up.2.block.0.nin_shortcut.weight"] == (512, 1024, 1, 1)
    assert shapes["decoder.up.1.upsample.conv.weight"] == (512, 512, 3, 3)
    assert shapes["decoder.norm_out.norm_layer.weight"] == (256,)
    assert not any(f"up.{level}.attn" in name for level in range(3) for name in shapes)


@pytest.fixture
def path(tmp_path):
    """A file as it is published: tensors by name, with those that are not needed."""
    where = tmp_path / "movqgan_270M.ckpt"
    unused = ("encoder.conv_in.weight", "quant_conv.bias", "loss.logvar", "ema_decoder.decay")
    torch.save({**tiny_movq().state_dict(), **{name: torch.zeros(1) for name in unused}}, where)
    return where


@torch.no_grad()
def test_a_file_is_read_in_each_form(path):
    vq, codes = tiny_movq(), torch.arange(CODES).view(1, 4, 4)
    assert torch.equal(load_movq(path, CONFIG)(codes), vq(codes))
    other = path.with_suffix(".safetensors")
    save_file({name: tensor.half() for name, tensor in vq.state_dict().items()}, other)
    half = load_movq(other, CONFIG)
    assert half.post_quant_conv.weight.dtype == torch.float32
    torch.save({"state_dict": vq.state_dict(), "epoch": 3}, path)
    assert torch.equal(load_movq(path, CONFIG)(codes), vq(codes))


class Boom:
    """What a malicious pickle runs when it is loaded."""

    def __reduce__(self):
        return exec, ("raise SystemExit('run')",)


def test_a_file_that_is_none_is_refused_by_name(path):
    tensors = torch.load(path)
    torch.save({**tensors, "decoder.extra": torch.zeros(1)}, path)
    with pytest.raises(
        ValueError, match=r"270M\.ckpt does not fit MoVQ: unexpected decoder\.extra"
    ):
        load_movq(path, CONFIG)
    with pytest.raises(ValueError, match=r"decoder\.conv_in\.weight is \[128, 4, 3, 3\], not \[10"):
        load_movq(path, MOVQ_270M)
    del tensors["decoder.norm_out.conv_y.bias"]
    torch.save(tensors, path)
    with pytest.raises(ValueError, match=r"missing decoder\.norm_out\.conv_y\.bias$"):
        load_movq(path, CONFIG)
    torch.save({"state_dict": Boom()}, path)
    contents = [path.read_bytes(), pickle.dumps(Boom(), protocol=2), b"", b"<html>"]
    for content in (*contents, contents[0][:200]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"270M\.ckpt is "):
            load_movq(path, CONFIG)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"270M\.ckpt"):
        load_movq(path, CONFIG)
