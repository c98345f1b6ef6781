"""Hugging Face datasets: a local folder read for real, and the Hub's answers stood in for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from components.registry import OptionError, options
from lab.composition.frozen.freeze import to_plain
from lab.data import DataError
from lab.data.corpora import hub
from lab.data.options import Data, Hub
from lab.data.shards import prepare

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder laid out like a dataset: two splits of JSON lines."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for split, n in (("train", 12), ("test", 3)):
        rows = [json.dumps({"text": f"{split} {i} é", "id": i}) for i in range(n)]
        (tmp_path / "mine" / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return "mine"


def read(corpus: Hub, cache: Path) -> list[str]:
    return [document.text for document in corpus.open(cache).documents()]


def test_rows_of_a_local_folder_are_documents_in_order(dataset: str, cache: Path) -> None:
    assert read(Hub(dataset=dataset), cache) == [f"train {i} é" for i in range(12)]
    assert read(Hub(dataset=dataset, split="test", streaming=False), cache) == [f"test {i} é" for i in range(3)]
    keys = [document.key for document in Hub(dataset=dataset).open(cache).documents()]
    assert keys == [f"train#{i}" for i in range(1, 13)]


def test_limits_stop_the_reading_at_whole_documents(dataset: str, cache: Path) -> None:
    assert len(read(Hub(dataset=dataset, max_documents=5), cache)) == 5
    size = len("train 0 é".encode())
    assert len(read(Hub(dataset=dataset, max_bytes=3 * size), cache)) == 3
    assert len(read(Hub(dataset=dataset, max_bytes=3 * size - 1), cache)) == 2


def test_the_digest_follows_the_content_and_what_is_read_of_it(dataset: str, cache: Path) -> None:
    digests = [
        Hub(dataset=dataset).open(cache).digest,
        Hub(dataset=dataset, split="test").open(cache).digest,
        Hub(dataset=dataset, max_documents=5).open(cache).digest,
        Hub(dataset=dataset, field="id").open(cache).digest,
    ]
    assert Hub(dataset=dataset, streaming=False).open(cache).digest == digests[0]
    with open(Path(dataset, "train.jsonl"), "a") as file:
        file.write('\n{"text": "more", "id": 12}')
    digests.append(Hub(dataset=dataset).open(cache).digest)
    assert len(set(digests)) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"field": "txt"}, r"'mine', split 'train', row 1: has no field 'txt'; did you mean 'text'"),
        ({"field": "id"}, r"row 1: 'id' should be text, found int"),
        ({"split": "dev"}, r"'mine': Bad split: dev\. Available splits: \['train', 'test'\]"),
        ({"config": "large"}, r"'mine': BuilderConfig 'large' not found"),
        ({"dataset": "./nowhere"}, r"there is no folder './nowhere'"),
        ({"dataset": "nobody/nothing"}, r"'nobody/nothing': the Hub can't be reached and the dataset was never read"),
    ],
)
def test_a_missing_part_is_named(changes: dict[str, Any], message: str, dataset: str, cache: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(Hub(**{"dataset": dataset, **changes}), cache)


def test_options_that_came_later_leave_configurations_of_before_as_they_were() -> None:
    before = {"name", "dataset", "config", "split", "field", "revision", "streaming", "max_documents", "max_bytes"}
    assert set(to_plain(Hub(dataset="d"))) == before
    later = Hub(dataset="d", validation_split="test", on_bad_row="skip")
    assert set(to_plain(later)) == before | {"validation_split", "on_bad_row"}


def test_a_split_of_ones_own_is_validated_on(dataset: str, cache: Path) -> None:
    corpus = Hub(dataset=dataset, validation_split="test", max_documents=5)
    snapshot = corpus.open(cache)
    assert [document.text for document in snapshot.documents()] == [f"train {i} é" for i in range(5)]
    assert [document.text for document in snapshot.validation()] == [f"test {i} é" for i in range(3)]
    assert snapshot.digest != Hub(dataset=dataset, max_documents=5).open(cache).digest
    made = prepare(Data(corpus=corpus), cache)
    assert (made.train_documents, made.validation_documents) == (5, 3)
    with pytest.raises(OptionError, match="must be another split than 'train'"):
        Hub(dataset=dataset, validation_split="train")


def test_rows_without_text_are_refused_or_skipped_and_counted(dataset: str, cache: Path) -> None:
    with open(Path(dataset, "train.jsonl"), "a") as file:
        file.write('\n{"text": null, "id": 12}')
    with pytest.raises(
        DataError, match=r"row 13: 'text' is null, expected text; set data\.corpus\.field, or leave such rows"
    ):
        read(Hub(dataset=dataset), cache)
    made = prepare(Data(corpus=Hub(dataset=dataset, on_bad_row="skip"), validation_fraction=0.5), cache)
    assert made.tally.skipped == {"'text' is null": 1}
    assert made.train_documents + made.validation_documents == 12


def test_text_within_a_structure_is_found_by_its_path(dataset: str, cache: Path) -> None:
    rows = [json.dumps({"messages": [{"role": "user", "content": f"{i}"}]}) for i in range(3)]
    Path(dataset, "train.jsonl").write_text("\n".join(rows))
    assert read(Hub(dataset=dataset, field="messages[].content"), cache) == ["0", "1", "2"]


def test_a_revision_of_a_folder_is_refused(dataset: str, cache: Path) -> None:
    with pytest.raises(DataError, match="revision: is for a dataset on the Hub"):
        Hub(dataset=dataset, revision="main").open(cache)


def test_without_the_library_the_message_says_what_to_install(
    dataset: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'architecture-ablation-lab\[hub\]'"):
        read(Hub(dataset=dataset), cache)


def test_a_dataset_seen_once_is_known_without_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_fetch_commit", lambda dataset, revision: COMMIT)
    online = Hub(dataset="owner/name").open(cache).digest

    def unreachable(dataset: str, revision: str | None) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "_fetch_commit", unreachable)
    assert Hub(dataset="owner/name").open(cache).digest == online
    assert Hub(dataset="owner/name", revision=COMMIT).open(cache / "empty").digest == online
    with pytest.raises(DataError, match="never read here"):
        Hub(dataset="owner/name", revision="v2").open(cache)


def test_a_new_commit_is_new_content_and_rows_are_read_at_that_commit(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def load_dataset(name: str, config: str | None, **arguments: Any) -> list[dict[str, str]]:
        asked.append({"name": name, "config": config, **arguments})
        return [{"text": "row"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    digests = set()
    for commit in ("a" * 40, "b" * 40):
        monkeypatch.setattr(hub, "_fetch_commit", lambda dataset, revision, commit=commit: commit)
        reading = Hub(dataset="owner/name", config="en", streaming=False).open(cache)
        assert [document.text for document in reading.documents()] == ["row"]
        digests.add(reading.digest)
    assert len(digests) == 2
    assert asked == [
        {"name": "owner/name", "config": "en", "split": "train", "revision": commit * 40, "streaming": False}
        for commit in "ab"
    ]


def test_streaming_is_no_part_of_a_runs_identity() -> None:
    assert [option.name for option in options(Hub) if not option.affects_result] == ["streaming"]


@pytest.mark.parametrize("option", ["max_documents", "max_bytes"])
def test_limits_of_nothing_are_refused(option: str) -> None:
    with pytest.raises(OptionError, match=f"{option}: must be at least 1"):
        Hub(dataset="d", **{option: 0})  # type: ignore[arg-type]
