"""``nbexport review``: sources, options, exit status."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from reviews import BASE, SEPARATOR, SERIES, diff, mail

from nbexport.cli import review as module
from nbexport.cli.main import cli
from nbexport.review import run as module_run
from nbexport.review.rules import RULES

V5, V6 = str(SERIES / "v5"), str(SERIES / "v6")


def run(*words, given_=None):
    return CliRunner().invoke(cli, ["review", *(str(word) for word in words)], input=given_)


@pytest.fixture
def patch_file(tmp_path):
    path = tmp_path / "v5.patch"
    path.write_text(mail(diff("base", "v5")))
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No policy file of this checkout counts."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return folder


def test_it_explains_itself():
    text = run("--help").output
    assert "\n    nbexport review release:5.1 release:5.2\n" in text
    assert "3 an input cannot be read" in " ".join(text.split())
    assert "nbexport review rules leak-through-base" in run("rules", "--help").output


def test_it_is_among_the_commands():
    assert "\n  review " in CliRunner().invoke(cli, ["--help"]).output


# -- exit status ----------------------------------------------------------------------------------


def test_findings_at_the_level_fail(patch_file):
    assert run(BASE, V5, "--release", "5.2").exit_code == 1
    assert run(BASE, V5, "--release", "5.2", "--fail-on", "breaking").exit_code == 0
    assert run(BASE, BASE).exit_code == 0
    assert run("--patch", patch_file, BASE, "--release", "5.2").exit_code == 1


def test_the_same_thing_twice_is_clean_unless_it_is_audited():
    assert run("release:5.2", "release:5.2").exit_code == 0
    result = run("release:5.2", "release:5.2", "--audit", "--format", "json")
    assert result.exit_code == 1
    rules = {finding["rule"] for finding in json.loads(result.output)["findings"]}
    assert {"replacement-not-shipped", "migration-note-lacks-rename"} <= rules


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Missing argument"),
        (("x",), "give OLD and NEW, or --patch FILE and BASE"),
        (("x", "y", "z"), "give OLD and NEW"),
        (("--patch", "p", "x", "y"), "--patch takes one schema, its BASE"),
        (("-p", "1", "x", "y"), "-p and -C are about a patch"),
        (("--format", "mail", "qmp:x", BASE), "qmp:x: a monitor has no text"),
        (("-o", "none/report", BASE, V5), "none/report: No such file or directory"),
        (("--format", "none", "x", "y"), "'none' is not one of"),
        (("--release", "x", BASE, V5), "release"),
        (("--config", "x", "--no-config", BASE, V5), "give one of --config and --no-config"),
        (("release:1.0", "release:5.2"), "no interface of release 1.0"),
        (("rules", "none"), "no rule 'none'"),
    ],
)
def test_wrong_usage_is_two(words, message):
    result = run(*words)
    assert (result.exit_code, message in result.output) == (2, True), result.output


def test_what_cannot_be_read_is_three(tmp_path, patch_file):
    broken = tmp_path / "broken.json"
    broken.write_text("{ 'command': 'go' ")
    bad = tmp_path / "bad.patch"
    bad.write_text(patch_file.read_text().replace("'*bitmap': 'str' } }", "'*map': 'str' } }"))
    policy = tmp_path / "bad.toml"
    policy.write_text("[review]\nx = 1\n")
    for words, message in (
        (("none", BASE), "nbexport: none: no such file or folder\n"),
        ((broken, BASE), f"nbexport: {broken}:"),
        (("qmp:/tmp/none.sock", BASE), "nbexport: qmp:/tmp/none.sock: "),
        (("--patch", "none.patch", BASE), "nbexport: none.patch: No such file or directory\n"),
        (("--patch", bad, BASE), f"nbexport: {bad}:"),
        (("--patch", patch_file, broken), f"nbexport: {broken.name}:"),
        (("--patch", patch_file, "release:7.2"), "qapi/block-export.json: hunk 1 of "),
        (("--config", policy, BASE, V5), f"nbexport: {policy}:2: review.x: unknown key 'x'"),
        (("--config", "none.toml", BASE, V5), "nbexport: none.toml: No such file"),
    ):
        result = run(*words)
        assert result.exit_code == 3, (words, result.output)
        assert message in result.output
        assert len(result.output.splitlines()) == 1


def test_an_introspection_is_not_blamed_for_lacking_words(tmp_path):
    answer = tmp_path / "answer.json"
    shown = CliRunner().invoke(cli, ["qapi", "introspect", "release:5.2"])
    answer.write_text(shown.output)
    result = run("release:5.1", answer, "--format", "json")
    report = json.loads(result.output)
    rules = {item["rule"] for item in report["findings"]}
    assert "command-added" in rules
    assert not {rule for rule in rules if rule.startswith(("doc-", "since-"))}
    assert "deprecation-without-note" not in rules
    assert report["release"] is None
    for name in module_run._OF_NOTES:
        assert name in RULES


def test_revisions_of_the_package_are_sources():
    text = run("multiple-bitmaps/base", "multiple-bitmaps/v6", "--release", "5.2").output
    last = text.splitlines()[-1]
    assert last.startswith("multiple-bitmaps/base -> multiple-bitmaps/v6 for release 5.2: ")


# -- patches --------------------------------------------------------------------------------------


def test_a_patch_finds_what_the_two_folders_do(patch_file):
    pair, patched = (
        json.loads(run(*words, "--release", "5.2", "--format", "json").output)["findings"]
        for words in ((BASE, V5), ("--patch", patch_file, BASE))
    )
    assert pair
    keys = ("rule", "level", "element", "message", "fingerprint")
    assert [[item[key] for key in keys] for item in pair] == [
        [item[key] for key in keys] for item in patched
    ]


def test_the_fifth_revision_leaks_and_the_sixth_does_not():
    found = {
        name: {
            item["rule"]
            for item in json.loads(
                run(BASE, SERIES / name, "--release", "5.2", "--format", "json").output
            )["findings"]
        }
        for name in ("v5", "v6")
    }
    gone = {"leak-through-base", "doc-phantom-member", "deprecated-gained-member"}
    assert gone <= found["v5"]
    assert not gone & found["v6"]
    assert "replacement-not-shipped" in found["v5"]


def test_a_patch_is_read_from_standard_input():
    result = run("--patch", "-", BASE, "--release", "5.2", given_=diff("base", "v5"))
    assert result.exit_code == 1
    assert "leak-through-base" in result.output


def test_a_patch_on_a_release_is_for_the_next_one():
    patch = (
        "--- a/qapi/control.json\n+++ b/qapi/control.json\n@@ -1,2 +1,3 @@\n"
        " # SPDX-License-Identifier: Apache-2.0\n+# one more comment\n \n"
    )
    result = run("--patch", "-", "release:5.1", given_=patch)
    assert result.exit_code == 0
    assert "for release 5.2: " in result.output


def test_mails_are_written_into_a_folder(tmp_path):
    box = tmp_path / "series.mbox"
    box.write_text(
        SEPARATOR + mail(diff("base", "v5"), "1/2") + SEPARATOR + mail(diff("v5", "v6"), "2/2")
    )
    words = ("--patch", box, BASE, "--release", "5.2", "--format", "mail")
    result = run(*words, "-o", f"{tmp_path}/replies/")
    names = sorted(path.name for path in (tmp_path / "replies").iterdir())
    assert names[0].startswith("0001-re-patch-v5-1-2-nbd-update-qapi")
    assert (tmp_path / "replies" / names[0]).read_text().startswith("Subject: Re: [PATCH v5 1/2]")
    assert len(result.output.splitlines()) == len(names)
    run(*words, "-o", tmp_path / "one.mbox")
    assert (tmp_path / "one.mbox").read_text() == run(*words).output


def test_a_mail_of_two_sources_quotes_their_difference():
    text = run(BASE, V5, "--release", "5.2", "--format", "mail").output
    assert text.startswith("Subject: Re: [PATCH] ")
    assert "\n> +            '*bitmaps': [ 'str' ], '*allocation-depth': 'bool' } }\n\n'" in text


# -- policy, forms --------------------------------------------------------------------------------


def test_the_policy_file_of_the_folder_counts(elsewhere):
    (elsewhere / "nbexport.toml").write_text(
        "[review]\nrelease = '5.2'\nfail-on = 'breaking'\n[review.levels]\n"
        "leak-through-base = 'off'\n"
    )
    result = run(BASE, V5)
    assert result.exit_code == 0
    assert "for release 5.2" in result.output
    assert "[leak-through-base]" not in result.output
    assert run(BASE, V5, "--fail-on", "risky").exit_code == 1
    assert "for release" not in run(BASE, V5, "--no-config").output


def test_a_file_gets_the_report_instead_of_the_output(tmp_path):
    result = run(BASE, V5, "--format", "junit", "-o", tmp_path / "report.xml")
    assert result.output == ""
    assert (tmp_path / "report.xml").read_text().startswith("<?xml")


@pytest.mark.parametrize("form", ["text", "json", "markdown", "github", "junit"])
def test_each_form_is_printed(form):
    result = run("release:5.1", "release:5.2", "--format", form)
    assert "nbd-server-add" in result.output
    assert "Traceback" not in result.output


def test_the_schema_of_the_json_form_is_printed():
    assert json.loads(run("--json-schema").output)["title"] == "nbexport review"


def test_colour_is_for_terminals_unless_refused(monkeypatch):
    assert "\033[" not in run(BASE, V5).output
    assert "\033[1;33m" in run(BASE, V5, "--color", "always").output
    monkeypatch.setattr(module.sys.stdout, "isatty", lambda: True, raising=False)
    assert module._colours("auto", None)
    assert not module._colours("auto", "file")
    assert not module._colours("never", None)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not module._colours("auto", None)
    assert module._colours("always", None)
    monkeypatch.setenv("NO_COLOR", "")
    assert module._colours("auto", None)
    monkeypatch.setenv("TERM", "dumb")
    assert not module._colours("auto", None)
