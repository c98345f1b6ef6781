"""`lab data` as a user types it: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.data.files_as_people_have_them import DOCUMENTS, lines, write_case
from tests.warm import lab


def test_it_shows_files_documents_tokens_first_lines_and_what_is_left_out(tmp_path: Path) -> None:
    write_case("mixed", tmp_path)
    done = lab("data", "mixed", cwd=tmp_path)
    assert done.returncode == 0
    size = sum(map(len, DOCUMENTS))
    for text in (
        "a.jsonl",
        "JSON lines",
        "left out: mixed/README.md: stands beside files of rows or token ids",
        "left out: mixed/.cache: hidden",
        f"80 documents: 76 for training, 4 for validation; {size:,} bytes of text; {size + 80:,} tokens (byte)",
        f"  | {DOCUMENTS[0]}"[:100],
    ):
        assert text in done.stdout
    assert "WRONG" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mixed"]


def test_what_would_end_a_run_is_said_with_exit_code_2(tmp_path: Path) -> None:
    write_case("nullrow", tmp_path)
    done = lab("data", "nullrow/*.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    fix = "set data.corpus.field, or leave such rows out with data.corpus.on_bad_row=skip"
    assert f"a.jsonl:51: 'text' is null, expected text; {fix}" in done.stderr
    as_json = json.loads(lab("data", "nullrow/*.jsonl", "--json", cwd=tmp_path).stdout)
    assert as_json["skipped"] == as_json["files"][0]["skipped"] == {"'text' is null": 1}
    done = lab("data", "nullrow/*.jsonl", "data.corpus.on_bad_row=skip", cwd=tmp_path)
    assert done.returncode == 0
    assert "1 rows without text: 'text' is null" in done.stdout


def test_overrides_of_the_data_and_json(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text(lines([{"messages": [{"content": text}]} for text in DOCUMENTS]))
    field = ("--field", "messages[].content")
    overrides = ("data/tokenizer=bpe", "data.tokenizer.size=300")
    done = lab("data", "chats.jsonl", *field, *overrides, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    seen = json.loads(done.stdout)
    assert seen["data"]["corpus"]["paths"] == ["chats.jsonl"]
    assert seen["data"]["corpus"]["field"] == "messages[].content"
    assert (seen["documents"], seen["text_bytes"]) == (80, sum(map(len, DOCUMENTS)))
    assert seen["tokens"] < seen["text_bytes"] / 2
    assert seen["files"][0]["format"] == "JSON lines"
    assert seen["examples"][0]["text"] == DOCUMENTS[0]


def test_the_corpus_of_an_experiment(tmp_path: Path) -> None:
    done = lab("data", "--experiment", "gemma2_tiny", "data.corpus.parts=[prose]", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["documents"] > 30
    done = lab("data", "--experiment", "mqar_tiny", cwd=tmp_path)
    assert done.returncode == 2
    assert "corpus 'mqar'" in done.stderr


def test_text_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[2Jb.jsonl").write_text(lines([{"text": "\x1b]0;title\x07\x1b[31mred\r"}, {"text": "b"}]))
    done = lab("data", "*.jsonl", "data.validation_fraction=0.5", cwd=tmp_path)
    assert "\x1b" not in done.stdout.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert r"  | \x1b]0;title\x07\x1b[31mred\r" in done.stdout


def test_names_that_are_not_utf8_are_shown(tmp_path: Path) -> None:
    write_case("txt_bad_name", tmp_path)
    done = lab("data", "txt_bad_name", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "caf" in done.stdout


def test_an_override_that_changes_nothing_of_the_data_is_refused(tmp_path: Path) -> None:
    write_case("nullrow", tmp_path)
    for override, nearest in (
        ("corpus.on_bad_row=skip", "data.corpus.on_bad_row"),
        ("tokenizer=bpe", "data/tokenizer"),
        ("train.contxt=64", None),
        ("train.context=64", None),
        ("model/heads=mha", None),
    ):
        done = lab("data", "nullrow", override, cwd=tmp_path)
        suggestion = f"; did you mean '{nearest}'?" if nearest else ""
        assert done.returncode == 2
        assert done.stderr == f"lab: override '{override}': changes nothing of the data{suggestion}\n"
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(
        "defaults: [gemma2_tiny, _self_]\ndata:\n  validation_fraction: ${schedule.final_fraction}\n"
    )
    done = lab("data", "nullrow/*.jsonl", "--experiment", "mine", "schedule.final_fraction=0.5", "--json", cwd=tmp_path)
    assert done.stderr == ""
    assert json.loads(done.stdout)["data"]["validation_fraction"] == 0.5
