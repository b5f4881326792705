"""The README's Python snippets run as they are, against a scripted server in place of a cluster."""

import runpy
from pathlib import Path

import pytest

from tests.fakes.inference_server import fake_inference_server
from tests.meta.source_files import ROOT
from tests.meta.test_readme import fences

ADDRESS = "127.0.0.1:8700"
SNIPPETS = fences(ROOT / "README.md", "python")


def test_there_is_one_per_way_to_call() -> None:
    ways = ("import Client\n", "import AsyncClient\n", "inference_pb2_grpc.InferenceServiceStub")
    assert [sum(way in text for text in SNIPPETS) for way in ways] == [1, 1, 1]


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs(number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ADDRESS in SNIPPETS[number]
    file = tmp_path / "snippet.py"
    with fake_inference_server() as server:
        file.write_text(SNIPPETS[number].replace(ADDRESS, server.address), encoding="utf-8")
        runpy.run_path(str(file), run_name="__main__")
    out = capsys.readouterr().out
    assert "capital" in out or "gears" in out  # the fake answers with the words of the prompt
