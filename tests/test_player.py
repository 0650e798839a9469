"""The part of the page with a slider holds what the decoders did, and needs no network."""

import base64
import json
import re
import zlib

import torch

from pjd.api import generate
from pjd.measure.board import boards
from pjd.pipeline.player import player


def test_a_reader_gets_every_board_and_nothing_from_a_network(model):
    results = {
        "AR": generate(model, ["cat"], "ar", seed=3),
        "PJD </script> & c": generate(model, ["cat"], "pjd", context=2, seed=3),
    }
    page = player(results, 0, model.grid, start=5)
    assert page.count("</script>") == 1 and "DATA" not in page
    assert not re.search(r"https?:|src=|href=|@import|fetch\(", page)
    data = json.loads(re.search(r"const data = (.*);\n", page).group(1))
    assert (data["rows"], data["columns"], data["start"]) == (6, 6, 5)
    assert [one["label"] for one in data["decoders"]] == list(results)
    for one, result in zip(data["decoders"], results.values(), strict=True):
        states = zlib.decompress(base64.b64decode(one["boards"]))
        found = torch.frombuffer(bytearray(states), dtype=torch.uint8).view(-1, 6, 6)
        assert one["steps"] == len(found) == int(result.steps[0])
        assert torch.equal(found, boards(result, 0, model.grid))
        # In the end all are committed: the names of the states are in the order of their numbers.
        assert set(found[-1].flatten().tolist()) <= set(data["committed"])
    assert list(data["states"])[1] == "committed before" and data["committed"] == [1, 3, 4]
