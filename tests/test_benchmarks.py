"""The benchmarks' harness: its numbers are the right ones, its documents agree, and what is exact is asserted."""

import re

import pytest

from benchmarks import __main__ as command_line
from benchmarks import airflow, billing, failure, load, refresh, report, soak
from exporter.schedule import BURST

WRK = """Running 2s test @ http://127.0.0.1:9101/metrics
  1 threads and 2 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    35.70ms    9.12ms  76.00ms   75.44%
    Req/Sec    55.85      9.95    80.00     75.00%
  Latency Distribution
     50%   {p50}
     75%   41.25ms
     90%   42.69ms
     99%   {p99}
  112 requests in 2.01s, 5.95MB read
{more}Requests/sec:     55.76
Transfer/sec:      2.96MB
"""


@pytest.mark.parametrize(
    ("p50", "p99", "expected"),
    [("812.00us", "1.50ms", (0.000812, 0.0015)), ("36.81ms", "1.20s", (0.03681, 1.2)), ("2.00s", "1.10m", (2.0, 66.0))],
)
def test_what_wrk_prints_is_read_in_its_units(p50: str, p99: str, expected: tuple[float, float]):
    found = load.parse(WRK.format(p50=p50, p99=p99, more=""))
    assert (found.requests, found.rate) == (112, 55.76)
    assert (found.p50, found.p99) == pytest.approx(expected)


@pytest.mark.parametrize(
    "more", ["  Non-2xx or 3xx responses: 3\n", "  Socket errors: connect 0, read 1, write 0, timeout 0\n"]
)
def test_a_load_with_errors_is_no_measurement(more: str):
    with pytest.raises(load.LoadError, match=more.strip().partition(":")[0]):
        load.parse(WRK.format(p50="1ms", p99="2ms", more=more))


def test_a_load_without_answers_is_no_measurement():
    with pytest.raises(load.LoadError, match="measured nothing"):
        load.parse("  0 requests in 2.01s, 0.00B read\nRequests/sec:      0.00\n")


def test_a_missing_load_generator_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert command_line.main(["scrape", "--quick"]) == 2
    assert "apt install wrk" in capsys.readouterr().err


def test_ratios_are_made_round_by_round():
    ours, other = report.Spread.of([10, 20, 40]), report.Spread.of([5, 20, 10])
    assert report.ratio(ours, other).values == (2, 1, 4)
    assert report.ratio(ours, other).median == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1, "1"), (1.25, "1.25"), (99.96, "100"), (1234.5, "1,234"), (475200, "475,200")],
)
def test_numbers_have_three_digits_or_all_of_the_whole_part(value: float, text: str):
    assert report.number(value) == text


def section(measured: str, met: bool | None) -> report.Section:
    made = report.Section("soak", "A title", "How.")
    made.targets.append(report.Target("what", "goal", measured, met))
    made.headlines.append(("question", measured, "9 others"))
    return made


@pytest.mark.parametrize(("met", "said"), [(True, "| met |"), (False, "**not met**"), (None, "not measured")])
def test_every_target_says_how_it_went(met: bool | None, said: str):
    assert said in report.document([section("7 s", met)], quick=False)


def test_documents_quote_the_results():
    results = report.document([section("7 s", True)], quick=False)
    text = (
        "before\n" + report.region("summary", "old\n") + "\nbetween\n" + report.region("unknown", "kept\n") + "after\n"
    )
    quoted = report.quote(results, text)
    assert "| question | 7 s | 9 others |" in quoted
    assert "old" not in quoted
    assert all(word in quoted for word in ("before\n", "\nbetween\n", "kept\n", "after\n"))
    assert report.quote(results, quoted) == quoted


def test_results_name_no_machine_and_no_path():
    text = report.document([section("7 s", True)], quick=False)
    assert report.platform.node() not in text
    assert not re.search(r"/(home|root|tmp|work|usr)/", text)


@pytest.mark.parametrize("path", report.QUOTED_IN, ids=lambda path: path.name)
def test_numbers_in_documents_are_those_of_the_results(path):
    known = report.regions(report.RESULTS.read_text("utf-8"))
    quoted = report.regions(path.read_text("utf-8"))
    assert quoted, f"{path.name} quotes nothing"
    for name, content in quoted.items():
        assert content == known[name], f"{path.name} quotes other numbers than results.md: run make bench"


def test_results_are_of_a_full_run():
    assert "Quick mode" not in report.RESULTS.read_text("utf-8")


def test_a_benchmark_that_breaks_is_told_and_the_exit_code_says_so(monkeypatch, capsys):
    def broken(*, quick: bool) -> report.Section:
        raise RuntimeError("made by a test")

    monkeypatch.setattr(soak, "run", broken)
    assert command_line.main(["soak", "--quick"]) == 1
    output = capsys.readouterr().out
    assert "made by a test" in output
    assert "not measured" in output


def test_the_share_of_refreshes_is_taken_from_the_times_of_both(monkeypatch: pytest.MonkeyPatch):
    """Four seconds between refreshes that are due every two: half of them."""
    times = iter(range(1000))
    monkeypatch.setattr(failure, "ask", lambda _url: next(times))
    monkeypatch.setattr(failure.time, "sleep", lambda _seconds: None)
    assert failure._share("", float, lambda seen: seen * 2 * failure.INTERVAL) == 0.5


# -- what is exact -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "row_every", "changes", "forced"), [(3.0, billing.HOUR / 4, 11, 0), (5.5, billing.WEEK, 0, 5)]
)
def test_bigquery_bills_for_changes_and_forced_refreshes_alone(
    hours: float, row_every: float, changes: int, forced: int
):
    """Simulated hours with a row every fifteen minutes; others without any, in which each hour asks anew."""
    env = {"AUDIT_PROBE_SECONDS": "0", "AUDIT_MAX_QUERY_AGE_SECONDS": "3600"}
    month = billing.simulate(hours / 24, row_every, **env)
    assert (month.changes, month.forced) == (changes, forced)
    assert month.billed_queries == month.expected == month.telemetry["executed"] == 1 + changes + forced
    assert month.telemetry["skipped"] == month.refreshes - month.billed_queries
    # One free look at the metadata each; insert, results and job for each query.
    assert month.requests <= month.refreshes + 3 * month.billed_queries


def test_bigquery_is_asked_once_a_change_however_long_ago_the_last_one_was():
    env = {"AUDIT_MAX_QUERY_AGE_SECONDS": "2592000", "AUDIT_PROBE_SECONDS": "0"}
    assert billing.simulate(1 / 8, 900.0, **env).billed_queries == 1 + 11


def test_probes_have_nothing_billed_that_was_not_before():
    """Half an hour with a row every ten minutes, which probes find; ten minutes with a row every five seconds."""
    few, many = billing.simulate(1 / 48, 625.0), billing.simulate(1 / 144, 5.0)
    assert few.billed_queries == few.expected == 1 + 2
    assert few.refreshes == 30 + few.changes
    assert many.billed_queries <= 10 + BURST


def test_the_obvious_design_bills_every_refresh():
    assert billing.obvious(3, 1) == 3
    assert billing.obvious(3, billing.metrics_of_the_log()) == 3 * billing.metrics_of_the_log()


@pytest.mark.parametrize("api", ["v1", "v2"])
def test_an_idle_refresh_asks_airflow_twice_whatever_the_history(api: str):
    short, long = (airflow.measure(api, 3, runs, refreshes=1) for runs in (3, 30))
    assert short.idle.most == long.idle.most == 2
    assert short.with_runs.most == long.with_runs.most < short.obvious


def test_many_dags_cost_no_more_requests_than_few():
    many = airflow.measure("v2", 40, 2, refreshes=1)
    assert many.idle.most == 2
    assert many.obvious > 40


def test_a_short_soak_keeps_its_series(monkeypatch: pytest.MonkeyPatch):
    """An hour of sixty refreshes."""
    monkeypatch.setattr(soak, "INTERVAL", 60.0)
    (hour,) = soak.simulate(1)
    assert hour.models == soak.MODELS
    assert hour.series > soak.MODELS


def test_a_refresh_is_measured_in_a_process_of_its_own(tmp_path):
    log = tmp_path / "rows.duckdb"
    refresh.fill_rows(log, 100)
    found = refresh.measure({"AUDIT_URL": str(log)}, add=("row", log))
    assert found["series"] > 30
    assert 0 < found["again"]["cpu"] <= found["again"]["wall"] * 4
    assert found["peak"] > 2**20
