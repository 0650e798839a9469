"""The pipeline under the paper's settings, on a tiny checkpoint of the form of Lumina-mGPT's."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import save_file

from pjd.models.chameleon import VQ, lumina
from tests.backbones import save_checkpoint, tiny_chameleon
from tests.project import dvc, overlay, project_with_data


@pytest.mark.slow
def test_the_papers_profile_runs_on_a_tiny_checkpoint_of_its_form(tmp_path):
    folder = project_with_data(tmp_path, "paper")
    model, language = tiny_chameleon(replace(lumina(512, 512), sampling={}))
    save_checkpoint(folder / "weights" / "lumina-mgpt-7b-512", model, language)
    # Its image decoder is the one within Anole's checkpoint.
    (folder / "weights" / "anole-7b").mkdir()
    within = {VQ + name: tensor for name, tensor in model.pixels.state_dict().items()}
    save_file(within, folder / "weights" / "anole-7b" / "model.safetensors")
    prompts = folder / "prompts"
    captions = [{"image_id": 7 * n, "id": n, "caption": "red cat"} for n in range(2)]
    (prompts / "val2017").mkdir(parents=True)
    (prompts / "captions_val2017.json").write_text(json.dumps({"annotations": captions}))
    for number in range(2):
        colour = (120 * number, 50, 90)
        Image.new("RGB", (64, 40), colour).save(prompts / "val2017" / f"{7 * number:012d}.jpg")
    (prompts / "PartiPrompts.tsv").write_text(
        "Prompt\tCategory\tChallenge\tNote\nred cat\tAnimals\tBasic\t\n1\tWorld\tBasic\t\n"
    )
    model = "lumina-mgpt-7b-512"
    captions = {"model": model, "prompts": "prompts/captions_val2017.json", "images": 2}
    captions |= {"pictures": "prompts/val2017"}
    parti = {"model": model, "prompts": "prompts/PartiPrompts.tsv", "images": 2}

    def run(group: str, setting: str, **options) -> dict:
        return {"group": group, "setting": setting, "options": options}

    overlay(
        folder,
        {
            "model": model,
            "machine": {"device": "cpu", "dtype": "float32", "threads": 1},
            "settings": {
                "captions": {**captions, "ar": "ar", "top_k": 5},
                "parti": {**parti, "ar": "parti-ar", "top_k": 5},
            },
            "runs": {
                "ar": run("main", "captions", method="ar"),
                "ar-repeat": run("main", "captions", method="ar", seed=1000000),
                "sjd": run("main", "captions", method="sjd"),
                "pjd-8": run("main", "captions", method="pjd", context=8),
                "pjd-16": run("main", "captions", method="pjd", context=16),
                "parti-ar": run("parti", "parti", method="ar"),
                "parti-pjd-8": run("parti", "parti", method="pjd", context=8),
            },
            "probe_pictures": 64,
            "figures": {
                "fig01_pairs": {"notebook": "fig01_pairs", "options": {}},
                "fig02_attention": {"notebook": "fig02_attention", "options": {"images": 1}},
                "table1_main": {"notebook": "table1_main", "options": {}},
                "table2_held_out": {
                    "notebook": "table2_held_out",
                    "options": {
                        "reference": "parti-ar",
                        "split": False,
                        "runs": ["parti-ar", "parti-pjd-8"],
                    },
                },
            },
        },
    )
    dvc(folder, "repro", "report")
    table = pd.read_parquet(folder / "results" / "runs.parquet").set_index("run")
    # A row of this family ends with a token that no code stands for.
    assert table.steps["ar"] == 32 * 33 and table.compression["ar"] == 1
    assert table.steps["pjd-8"] < table.steps["pjd-16"] < 32 * 33
    pictured = table[table.setting != "parti"]
    assert pictured[["gap", "frechet_real", "nats"]].notna().all().all()
    assert "coco" in (folder / "figures" / "fig01_pairs" / "fig01_pairs.svg").read_text()
    parti = pd.read_csv(folder / "figures" / "table2_held_out" / "table2_held_out.csv")
    assert parti["steps, all prompts"].tolist()[0] == 32 * 33 and len(parti) == 2
    report = (folder / "reports" / "index.html").read_text()
    assert f"on {model}</h1>" in report and "Credits" not in report
    assert "up to date" in dvc(folder, "repro", "report")
