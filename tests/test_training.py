"""Training of the embedded models: it learns, and a stopped run goes on as if it had not."""

import copy

import pytest
import torch
from torch import nn

from pjd.emoji.icons import Icons
from pjd.emoji.muon import Muon, orthogonal
from pjd.emoji.tokenizer_training import polish_decoder, train_tokenizer
from pjd.emoji.training import Training
from pjd.emoji.transformer_training import train_transformer
from pjd.models.captions import Words
from pjd.models.llamagen import LlamaGen
from pjd.models.tokenizer import Tokenizer
from tests.tiny import TinyConfig

SIZE = 16


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def icons() -> Icons:
    """A red square and a blue bar, on white and on black."""
    pixels = torch.zeros(2, SIZE, SIZE, 4, dtype=torch.uint8)
    pixels[0, 4:12, 4:12] = torch.tensor([255, 0, 0, 255], dtype=torch.uint8)
    pixels[1, 6:10] = torch.tensor([0, 0, 255, 255], dtype=torch.uint8)
    grounds = torch.tensor([255, 0], dtype=torch.uint8)[:, None, None, None]
    words = Words(["square", "bar", "noto", "on", "white", "black"], 4)
    return Icons(
        pixels=pixels,
        backgrounds=grounds.expand(2, SIZE, SIZE, 3).contiguous(),
        names=torch.tensor([words.ids("square"), words.ids("bar")]),
        styles=torch.tensor([words.ids("noto")] * 2),
        background_names=torch.tensor([words.ids("on white"), words.ids("on black")]),
        words=words,
    )


def matrices() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape)) for shape in ((12, 12), (12, 40), (12, 12), (40, 12))]


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 16, 48), (2, 48, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonal_keeps_singular_vectors_and_levels_singular_values(shape, dtype):
    left, values, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = values.clamp(min=values.max() / 20)
    found = orthogonal((left @ torch.diag_embed(values) @ right).to(dtype)).float()
    core = left.mT @ found @ right.mT
    level = core.diagonal(dim1=-2, dim2=-1)
    assert 0.6 < level.min() < level.max() < 1.3
    assert (core - torch.diag_embed(level)).abs().max() < (1e-3 if dtype is torch.float32 else 0.1)


def test_muon_moves_every_matrix_by_its_rate_and_shrinks_it_by_its_decay():
    parameters = matrices()
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters[:-1]:
        parameter.grad = 100 * torch.randn(parameter.shape)
    Muon(parameters, lr=0.1, weight_decay=0.5).step()
    for old, new in zip(before[:-1], parameters[:-1], strict=True):
        moved = (new - old * (1 - 0.1 * 0.5)).square().mean().sqrt()
        assert moved.item() / 0.1 == pytest.approx(0.2, rel=0.2)
    assert torch.equal(before[-1], parameters[-1]), "no gradient, no step"


def test_muon_descends_where_the_gradient_points_and_one_shape_does_not_disturb_another():
    parameters = matrices()
    goals = [torch.randn(parameter.shape) for parameter in parameters]
    alone = [copy.deepcopy(parameter) for parameter in parameters]
    together = Muon(parameters, lr=0.1)
    separate = [Muon([parameter], lr=0.1) for parameter in alone]
    first = sum((p - goal).square().sum() for p, goal in zip(parameters, goals, strict=True))
    for _ in range(60):
        for group in (parameters, alone):
            for parameter, goal in zip(group, goals, strict=True):
                parameter.grad = (parameter - goal).detach()
        for optimizer in (together, *separate):
            optimizer.step()
    last = sum((p - goal).square().sum() for p, goal in zip(parameters, goals, strict=True))
    assert last < first / 4
    for one, other in zip(parameters, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_the_rate_warms_up_stays_and_falls_to_zero(tmp_path):
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=8.0)
    training = Training(layer, [optimizer], 100, tmp_path / "none.pt", warmup=10, decay=0.5)
    rates = []

    def loss() -> torch.Tensor:
        rates.append(optimizer.param_groups[0]["lr"])
        return 0 * layer(torch.ones(2)).sum()

    training.run(loss, lambda averaged: {})
    assert rates[:10] == pytest.approx([0.8 * step for step in range(1, 11)])
    assert rates[10:50] == [8.0] * 40
    assert rates[50:] == pytest.approx([8.0 * left / 50 for left in range(50, 0, -1)])


def noisy(checkpoint, stop: int | None = None) -> tuple[Training, nn.Module]:
    """A run whose losses draw dropout and batches; ``stop``: the step at which it is killed."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 6))
    hidden = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    rest = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    optimizers = [Muon(hidden, lr=0.02), torch.optim.AdamW(rest, lr=0.02)]
    training = Training(model, optimizers, 30, checkpoint, warmup=5, average=0.8, save_every=0.0)

    def loss() -> torch.Tensor:
        if training.done == stop:
            raise KeyboardInterrupt
        batch = torch.randn(4, 6)
        return (model(batch) - batch).square().mean()

    def evaluate(averaged: nn.Module) -> dict[str, float]:
        return {"weight": float(averaged[0].weight.detach().square().sum())}

    training.run(loss, evaluate, evaluate_every=10)
    return training, training.averaged.module


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(tmp_path):
    torch.manual_seed(0)
    whole, expected = noisy(tmp_path / "whole.pt")
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        noisy(tmp_path / "killed.pt", stop=17)
    torch.manual_seed(123)
    resumed, found = noisy(tmp_path / "killed.pt")
    for one, other in zip(expected.parameters(), found.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [row["step"] for row in resumed.history] == [10, 20, 30]
    weights = [[row["weight"] for row in run.history] for run in (whole, resumed)]
    assert weights[0] == weights[1]
    assert not list(tmp_path.glob("*.partial"))


def test_a_finished_run_is_not_trained_again(tmp_path):
    _, expected = noisy(tmp_path / "run.pt")
    _, found = noisy(tmp_path / "run.pt", stop=30)
    for one, other in zip(expected.parameters(), found.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_transformer_learns_which_picture_a_caption_means(icons, tmp_path):
    sizes = {"dim": 16, "layers": 2, "heads": 2, "vocabulary": 16, "grid": SIZE // 4}
    config = TinyConfig(**sizes, prefix=icons.words.length, caption_dim=8, dropout=0.0)
    tokenizer = Tokenizer(codes=16, channels=(4, 8), blocks=(1, 1)).requires_grad_(False)
    trained, history = train_transformer(
        LlamaGen(config),
        nn.Embedding(len(icons.words), config.caption_dim),
        tokenizer,
        icons,
        {"again": icons},
        tmp_path / "transformer.pt",
        steps=300,
        batch=8,
        rate=0.02,
        shift=0,
        compiled=False,
    )
    assert list(history.step) == [250, 300]
    assert history.train.iloc[-1] < 0.1, "four pictures, each told by its caption"
    assert history.again.iloc[-1] < 0.1
    captions = icons.captions(torch.tensor([0, 1]), torch.tensor([0, 1]), drop=False)
    pictures = tokenizer.encode(icons.images(torch.tensor([0, 1]), torch.tensor([0, 1])))
    for condition, told in ((captions, True), (captions.flip(0), False)):
        logits = trained["transformer"].teacher_forced(
            trained["words"](condition),
            condition > 0,
            torch.zeros(2, dtype=torch.bool),
            pictures.flatten(1),
        )
        nats = nn.functional.cross_entropy(logits.flatten(0, 1), pictures.flatten())
        assert (nats < 0.1) == told, nats


def test_the_tokenizer_learns_and_its_polished_decoder_keeps_the_codes(icons, tmp_path):
    tokenizer = Tokenizer(codes=16, channels=(8, 16), blocks=(1, 1))
    learned, history = train_tokenizer(
        tokenizer, [icons], icons, tmp_path / "tokenizer.pt", 1000, 16, SIZE, 5e-3, 50
    )
    assert history.psnr.iloc[-1] > 18
    images = icons.images(torch.tensor([0, 1]), torch.tensor([0, 1]))
    ids, before = learned.encode(images), copy.deepcopy(learned.state_dict())
    polished, after = polish_decoder(
        learned, [icons], icons, tmp_path / "decoder.pt", 250, 16, SIZE, 2e-3
    )
    assert torch.equal(polished.encode(images), ids)
    for name, value in polished.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("decoder."), name
    assert after.psnr.iloc[-1] > history.psnr.iloc[-1]
