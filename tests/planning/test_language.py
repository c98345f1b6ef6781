"""The sweep language: what its forms expand to, beside loops written out by hand and Hydra's own parser."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab.planning.arms.arm import Arm
from lab.planning.arms.expansion import expand
from lab.planning.language.hydra_values import hydra_value
from lab.planning.language.read import SweepFile, read_sweep
from lab.planning.language.sweep import NeededRun
from lab.planning.plan.build import plan_sweep
from lab.records import check_name
from lab.refusals import RequestError

PARSER = OverridesParser.create()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """write(text, name): sweeps/<name>.yaml in a working folder of its own; that file, read."""
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)

    def call(text: str, name: str = "mine") -> SweepFile:
        head = "" if "extends:" in text else "question: Why?\nexperiment: gemma2_tiny\n"
        (tmp_path / "sweeps" / f"{name}.yaml").write_text(f"{head}{text}\n")
        return read_sweep(name)

    return call


def cells(file: SweepFile) -> list[dict[str, Any]]:
    return [dict(arm.settings) for arm in expand(file).arms]


def names(file: SweepFile) -> list[str]:
    return [arm.name for arm in expand(file).arms]


def test_arms_times_grid_times_each_zip_last_fastest(write) -> None:  # type: ignore[no-untyped-def]
    found = write("""
arms: {gqa: {}, mha: {model/heads: mha}}
grid: {a.x: [1, 2], a.y: ['on', 'off']}
zip:
  - {b.n: [2, 4, 8], b.d: [64, 96, 128]}
  - {c.u: [0.1, 0.2], c.v: [null, true]}
""")
    wanted = []
    for heads in ({}, {"model/heads": "mha"}):
        for x, y in itertools.product([1, 2], ["on", "off"]):
            for n, d in ((2, 64), (4, 96), (8, 128)):
                for u, v in ((0.1, None), (0.2, True)):
                    wanted.append({**heads, "a.x": x, "a.y": y, "b.n": n, "b.d": d, "c.u": u, "c.v": v})
    assert cells(found) == wanted
    assert len(set(names(found))) == 48
    assert names(found)[-1] == "mha,x=2,y=off,n=8,d=128,u=0.2,v=true"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[16, 32]", [16, 32]),
        ("[1e-3, 2e-3]", [1e-3, 2e-3]),
        ("choice(16, 32)", [16, 32]),
        ("16,32", [16, 32]),
        ("range(1, 4)", [1, 2, 3]),
        ("range(8, 0, -4)", [8, 4]),
        ("sort(3, 1, 2)", [1, 2, 3]),
        ("choice([local], [local, global])", [["local"], ["local", "global"]]),
        ("choice(no, 4, true)", ["no", 4, True]),
        ("range(0.1, 0.4, 0.1)", [0.1, 0.2, 0.3]),
        ("choice({n_heads: 2}, {n_heads: 4})", [{"n_heads": 2}, {"n_heads": 4}]),
    ],
)
def test_an_axis_is_a_list_or_hydras_text(write, text: str, values: list[Any]) -> None:  # type: ignore[no-untyped-def]
    found = cells(write(f"grid: {{a.b: {text if text.startswith('[') else repr(text)}}}"))
    assert [cell["a.b"] for cell in found] == values
    assert [type(cell["a.b"]) for cell in found] == [type(value) for value in values]


def test_quotes_that_make_a_number_a_text_survive_hydras_choice(write) -> None:  # type: ignore[no-untyped-def]
    arms = expand(write("""grid: {a.b: "choice('3', 'x y', 'p,q')"}""")).arms
    assert [PARSER.parse_override(arm.overrides[0]).value() for arm in arms] == ["3", "x y", "p,q"]


def test_a_conditional_axis_is_set_where_its_condition_holds_and_nowhere_else(write) -> None:  # type: ignore[no-untyped-def]
    found = write("""
grid: {model/span: [global, local, interleaved], model.span.window: [8, 16], model.softcap.attention: [50]}
when:
  model.softcap.attention: {model.span.window: 16}
  model.span.window: {model/span: [local, interleaved]}
""")
    assert names(found) == [
        "span=global",
        "span=local,window=8",
        "span=local,window=16,attention=50",
        "span=interleaved,window=8",
        "span=interleaved,window=16,attention=50",
    ]


def test_conditions_may_speak_of_arms_and_of_what_arms_set(write) -> None:  # type: ignore[no-untyped-def]
    found = write("""
arms: {a: {model/span: local}, b: {model/span: global}, c: {}}
grid: {x.w: [1, 2], x.c: [3, 4]}
when: {x.w: {model/span: local}, x.c: {arm: [b]}}
""")
    assert names(found) == ["a,w=1", "a,w=2", "b,c=3", "b,c=4", "c"]


def test_exclude_leaves_out_the_cells_in_which_all_of_one_entry_holds(write) -> None:  # type: ignore[no-untyped-def]
    found = write("""
arms: {a: {}, b: {q.q: 1}}
grid: {x.x: [1, 2, 3], y.y: [1, 2, 3]}
exclude:
  - {x.x: [1, 2], y.y: 1}
  - {arm: b, y.y: [2, 3]}
""")
    wanted = [
        f"{arm},x={x},y={y}"
        for arm in "ab"
        for x in (1, 2, 3)
        for y in (1, 2, 3)
        if not (x in (1, 2) and y == 1) and not (arm == "b" and y in (2, 3))
    ]
    assert names(found) == wanted


def test_leave_one_out_and_add_one_in_start_from_the_baseline(write) -> None:  # type: ignore[no-untyped-def]
    found = write("""
baseline: full
arms: {full: {model/softcap: gemma2, train: {context: 64}}, other: {model/heads: mha}}
leave_one_out: {cap: {model/softcap: none}}
add_one_in: {long: {train: {tokens: 9k}}}
""")
    assert {arm.name: dict(arm.settings) for arm in expand(found).arms} == {
        "full": {"model/softcap": "gemma2", "train": {"context": 64}},
        "other": {"model/heads": "mha"},
        "no_cap": {"train": {"context": 64}, "model/softcap": "none"},
        "with_long": {"model/softcap": "gemma2", "train": {"context": 64, "tokens": "9k"}},
    }


def test_without_arms_the_baseline_sets_nothing(write) -> None:  # type: ignore[no-untyped-def]
    text = "leave_one_out: {cap: {model/softcap: none}}"
    assert names(write(text)) == ["baseline", "no_cap"]
    found = write(f"baseline: gemma2\n{text}\ngrid: {{x.x: [1, 2]}}")
    assert names(found) == ["gemma2,x=1", "gemma2,x=2", "no_cap,x=1", "no_cap,x=2"]
    assert expand(found).baseline == "gemma2,x=1"


def test_short_forms_are_the_long_ones(write) -> None:  # type: ignore[no-untyped-def]
    short = write("""
arms: {a: {}, b: {}}
match: params
zip: {x.x: [1, 2], y.y: [3, 4]}
exclude: {x.x: 1}
needs: {b: {recipe.teacher: a}}
tune: {optimizer.lr: 'choice(1e-3, 2e-3)', seeds: [7]}
""")
    long = write("""
arms: {a: {}, b: {}}
match: {by: params}
zip: [{x.x: [1, 2], y.y: [3, 4]}]
exclude: [{x.x: 1}]
needs: {b: {recipe.teacher: {arm: a}}}
tune: {axes: {optimizer.lr: 'choice(1e-3, 2e-3)'}, seeds: [7]}
""")
    assert short.sweep == long.sweep
    assert short.sweep.needs == {"b": {"recipe.teacher": NeededRun(arm="a")}}
    assert short.sweep.match.by == "params"


def test_extends_merges_mappings_and_replaces_the_rest(write) -> None:  # type: ignore[no-untyped-def]
    write(
        """
arms: {a: {x.x: 1}, b: {x.x: 2}, c: {x.x: 3}}
grid: {g.g: [1, 2], h.h: [1, 2]}
overrides: {train.tokens: 8k, validation.every: 4k}
seeds: [1, 2]
baseline: a
match: {by: params, tolerance: 0.01}
""",
        "base",
    )
    write(
        "extends: base\narms: {b: {x.x: 20}, c: null, d: {x.x: 4}}\ngrid: {h.h: null}\n"
        "overrides: {validation.every: null}",
        "middle",
    )
    file = write("extends: middle\nquestion: And then?\nseeds: 3\nmatch: flops\n", "top")
    sweep = file.sweep
    assert sweep.question == "And then?"
    assert sweep.arms == {"a": {"x.x": 1}, "b": {"x.x": 20}, "d": {"x.x": 4}}
    assert sweep.grid == {"g.g": (1, 2)}
    assert sweep.overrides == {"train.tokens": "8k", "validation.every": None}
    assert (sweep.seeds, sweep.baseline, sweep.match.by, sweep.match.tolerance) == (3, "a", "flops", 0.005)
    assert str(file.at("arms", "a", "x.x")) == "sweeps/base.yaml:4: arms.a.x.x"
    assert str(file.at("arms", "d")) == "sweeps/middle.yaml:2: arms.d"
    assert str(file.at("seeds")) == "sweeps/top.yaml:3: seeds"
    assert str(expand(file).arms[0].where) == "sweeps/base.yaml:4: arm 'a,g=1'"


def test_a_place_is_the_line_of_the_deepest_key_that_is_there(write) -> None:  # type: ignore[no-untyped-def]
    file = write("""arms:
  a: {}
grid:
  model.span.window:
    - 16
    - 32
  model.span: [local, global]
zip:
  x.x: [1, 2]
  y.y: [3, 4]""")
    assert str(file.at("grid", "model.span.window")) == "sweeps/mine.yaml:6: grid.model.span.window"
    assert str(file.line("grid", "model.span.window[1]")) == "sweeps/mine.yaml:8"
    assert str(file.line("grid", "model.span")) == "sweeps/mine.yaml:9"
    assert str(file.line("grid", "model.spam")) == "sweeps/mine.yaml:5"
    assert str(file.line("zip[0]", "y.y")) == "sweeps/mine.yaml:12"
    assert str(file.at("needs")) == "sweeps/mine.yaml: needs"


def test_scalars_are_read_as_hydra_reads_them(write) -> None:  # type: ignore[no-untyped-def]
    sweep = write("arms: {no: {a.a: 1e-3, a.b: on, a.c: 2024-01-01, a.d: 010, a.e: 1_000, a.f: 1:30}, 1: {}}").sweep
    assert sweep.arms == {
        "no": {"a.a": 0.001, "a.b": "on", "a.c": "2024-01-01", "a.d": "010", "a.e": 1000, "a.f": "1:30"},
        "1": {},
    }
    for text in ("1e-3", "on", "2024-01-01", "010", "1_000", "1:30", "no", "null", "TRUE", ".5", "1.", "-3", "5e+2"):
        read = load_value(write, text)
        assert PARSER.parse_override(f"k={text}").value() == read, text


def load_value(write, text: str) -> Any:  # type: ignore[no-untyped-def]
    return write(f"arms: {{a: {{k.k: {text}}}}}").sweep.arms["a"]["k.k"]


def test_anchors_and_merge_keys_work_and_own_keys_win(write) -> None:  # type: ignore[no-untyped-def]
    sweep = write("arms:\n  a: &a {x.x: 1, y.y: 2}\n  b: {<<: *a, y.y: 3}").sweep
    assert sweep.arms["b"] == {"x.x": 1, "y.y": 3}


def test_of_several_merged_mappings_the_first_wins(write) -> None:  # type: ignore[no-untyped-def]
    sweep = write("arms:\n  a: &a {x.x: 1}\n  b: &b {x.x: 2, y.y: 2}\n  c: {<<: [*a, *b], z.z: 3}").sweep
    assert sweep.arms["c"] == {"x.x": 1, "y.y": 2, "z.z": 3}


@pytest.mark.slow
@pytest.mark.parametrize("merge", ["[{}]", "{{<<: [{}]}}"], ids=["lists", "merge keys"])
def test_aliases_of_aliases_cannot_fill_the_memory(write, merge: str) -> None:  # type: ignore[no-untyped-def]
    first = "a0: &a0 {x.x: 1}"
    more = [f"a{n}: &a{n} {merge.format(', '.join([f'*a{n - 1}'] * 9))}" for n in range(1, 30)]
    with pytest.raises(RequestError, match=r"^sweeps/mine\.yaml:\d+: .*more than 500,000 values"):
        write("\n".join([first, *more]))


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=12))
@example("\\")
@example("a\\\\\\")
def test_any_text_is_one_value_for_hydra(text: str) -> None:
    try:
        meant = PARSER.parse_override(f"k={text}")
        meaning = text if meant.is_sweep_override() or text != text.strip() else meant.value()
    except Exception:
        meaning = text
    alone, inside = (PARSER.parse_override(f"k={hydra_value(x)}").value() for x in (text, {"a b": [text, 1]}))
    assert repr(alone) == repr(meaning)  # NaN is a value too, and equals nothing
    assert repr(inside) == repr({"a b": [meaning, 1]})


MISREAD = ["a,b", "x = y", "it's", 'say "so"', " edge ", "", "C:\\x\\", "a#b", "(", "choice(a,b)"]


@pytest.mark.parametrize("text", MISREAD)
def test_texts_that_hydra_would_misread_are_quoted(text: str) -> None:
    assert PARSER.parse_override(f"k={hydra_value(text)}").value() == text


def test_names_are_short_unique_and_safe(write) -> None:  # type: ignore[no-untyped-def]
    found = write("grid: {data.corpus.paths: [[../x/*.md], [./x/*.md], [~/x], X, x], a.eps: [1, 2], b.eps: [1, 2]}")
    made = names(found)
    assert len({name.casefold() for name in made}) == len(made) == 20
    for name in made:
        check_name(name)
        assert name.isascii()
        assert not set(name) & set("/\\:*?\"'<>| []{}~")
    assert made == names(found), "the same each time"


def test_long_names_are_shortened_alike_however_the_axis_grows(write) -> None:  # type: ignore[no-untyped-def]
    patterns = [[kind] * 30 for kind in ("local", "linear", "global")]
    two = names(write(f"grid: {{model.pattern: {patterns[:2]}}}"))
    three = names(write(f"grid: {{model.pattern: {patterns}}}"))
    assert all(len(name) <= 100 for name in three)
    assert len(set(three)) == 3
    assert three[:2] == two


def test_ten_thousand_cells_expand_to_as_many_names_less_the_excluded(write) -> None:  # type: ignore[no-untyped-def]
    found = write("""
arms: {a: {}, b: {model/heads: mha}}
grid: {model.span.window: 'range(1, 51)', train.tokens: 'range(1000, 51000, 1000)', model/span: [local, interleaved]}
when: {model.span.window: {model/span: [local, interleaved]}}
exclude: {model.span.window: 7, train.tokens: 7000}
""")
    arms = expand(found).arms
    assert len(arms) == 10_000 - 4
    assert len({arm.name for arm in arms}) == len(arms)


def test_an_arm_may_overrule_an_override_that_others_keep(write) -> None:  # type: ignore[no-untyped-def]
    write("overrides: {train.tokens: 40k}\narms: {a: {}, b: {train.tokens: 60k}}")
    assert [run.experiment.train.tokens for run in plan_sweep("mine").runs] == [40_000, 60_000]


def test_a_mistake_in_the_middle_of_an_axis_names_its_own_line(write) -> None:  # type: ignore[no-untyped-def]
    write("arms: {a: {}, b: {model/heads: mha}}\ngrid:\n  train.tokens:\n    - 40k\n    - '4 0k'\n    - 50k")
    with pytest.raises(RequestError, match=r"^sweeps/mine\.yaml:7: arm 'a,tokens=4-0k': override 'train\.tokens=4 0k'"):
        plan_sweep("mine")


def test_an_arm_gives_its_overrides_in_order() -> None:
    arm = Arm("x", {"a": None, "b": True, "c": [1, "x y", "p,q"], "d": {"e": 0.1}})
    assert arm.overrides == ("a=null", "b=true", "c=[1,x y,'p,q']", "d={e:0.1}")
