import pytest

from benchmarks.measure import Rate
from benchmarks.peers import goals
from benchmarks.peers.report import Result, body, figure, section, table


def result(name: str, items: int, *, ours: bool = False, counted: float | None = None) -> Result:
    facts = {"note": "as it is", "versions": "1", "bytes_per_item": 7000.4, "counted_bytes": counted}
    rates = [Rate(items, 1.0, 0.02, 0.01), Rate(items * 3, 1.0, 0.02, 0.01), Rate(items * 2, 1.0, 0.02, 0.01)]
    return Result(name, ours, facts, {"sample/512": rates})


def test_a_row_holds_medians_costs_and_both_memories():
    lines = table([result("ours", 1000, ours=True, counted=200.0), result("other", 10)], ["insert", "sample/512"])
    header, _, ours, other = lines.splitlines()
    assert header == "| system | insert | sample/512 | memory (RSS) | memory (counted) |"
    assert ours == "| **ours** | – | 2,000 (10.0 + 5.0) | 7,000 | 200 |"
    assert other.endswith("| 7,000 | – |")


def test_a_page_keeps_what_is_around_the_comparison():
    page = section("# Title\n\nMine.\n", "first")
    assert page.startswith("# Title\n\nMine.\n")
    longer = page + "\nAlso mine.\n"
    again = section(longer, "second")
    assert "first" not in again
    assert "second" in again
    assert again.startswith("# Title\n\nMine.\n")
    assert again.endswith("\nAlso mine.\n")
    assert section(again, "second") == again


def test_marks_that_do_not_match_are_refused():
    page = section("", "body")
    with pytest.raises(ValueError, match="marks"):
        section(page.replace("<!-- bench-peers: end -->", ""), "body")
    with pytest.raises(ValueError, match="marks"):
        section("<!-- bench-peers: end -->", "body")


def test_the_text_names_the_command_the_machine_and_a_disturbance():
    games = {"Pong": [result("ours", 1000, ours=True)], "MsPacman": [result("ours", 900, ours=True)]}
    quiet = body(games, ["sample/512"], command="python -m x", stored=100_000, other_cores=0.01, goals="| x |")
    loud = body(games, ["sample/512"], command="python -m x", stored=100_000, other_cores=1.2, goals="")
    assert "`python -m x` on " in quiet
    assert "100,000 transitions" in quiet
    assert "### MsPacman" in quiet
    assert "### What was to be reached\n\n| x |" in quiet
    assert "disturbed" not in quiet
    assert "disturbed" in loud


def test_the_picture_is_a_png_and_the_same_each_time():
    games = {"Pong": [result("ours", 1000, ours=True), result("other", 10)]}
    picture = figure(games, "sample/512")
    assert picture.startswith(b"\x89PNG")
    assert figure(games, "sample/512") == picture


def test_goals_compare_the_best_of_both_sides_and_say_which_are_missed():
    def system(name: str, **speeds: int) -> Result:
        rates = {name.replace("_", "/"): [Rate(speed, 1.0, 0.0, 0.0)] for name, speed in speeds.items()}
        return Result(name, name.startswith("Ours"), {}, rates)

    rows = [
        system("Ours", sample_256=50, sample_512=80, update_512=5),
        system("Other, slow", sample_512=10),
        system("Other, fast", sample_256=20, sample_512=15),
    ]
    wanted = [
        goals.Goal("Ours", "sample", "Other", 4, {"B": 4.5}),
        goals.Goal("Ours", "update", "", 6, {}),
        goals.Goal("Ours", "insert", "Other", 1, {}),  # nobody has measured it
    ]
    _, _, *lines = goals.table({"A": rows, "B": rows}, wanted).splitlines()
    assert lines == [
        "| A | Ours: sample | Other, its best | 80 | 20 | 4.00x | 4x | yes |",
        "| A | Ours: update | – | 5 | – | 5 /s | 6 /s | **no** |",
        "| B | Ours: sample | Other, its best | 80 | 20 | 4.00x | 4.5x | **no** |",
        "| B | Ours: update | – | 5 | – | 5 /s | 6 /s | **no** |",
    ]
