import torch
from PIL import Image

from pjd.api import generate
from pjd.pipeline.animation import animate, course


def test_the_course_of_an_image_ends_complete_and_never_loses_a_code(model):
    for method, options in (("ar", {}), ("sjd", {"window": 4}), ("pjd", {"context": 2})):
        result = generate(model, ["cat", "red dog"], method, seed=1, **options)
        done, held = course(result, 1, model.grid)
        assert done.shape == held.shape == (int(result.steps[1]), 6, 6)
        assert done[-1].all() and not held[-1].any() and not (done & held).any()
        assert (done[1:] >= done[:-1]).all()
        if method == "ar":
            assert (torch.from_numpy(done).sum((1, 2)) == torch.arange(1, 37)).all()
        else:
            assert held.any()


def test_every_decoder_runs_at_its_own_forwards(model, tmp_path):
    results = {
        name: generate(model, ["cat"], name, **options)
        for name, options in (("ar", {}), ("pjd", {"context": 2}))
    }
    animate(results, 0, model.grid, tmp_path / "x.gif", side=48, every=1)
    with Image.open(tmp_path / "x.gif") as picture:
        assert picture.n_frames == 36
    size = (tmp_path / "x.gif").stat().st_size
    animate(results, 0, model.grid, tmp_path / "y.gif", side=48, every=1, limit=size - 1)
    with Image.open(tmp_path / "y.gif") as picture:
        assert picture.n_frames == 18 and (tmp_path / "y.gif").stat().st_size < size
