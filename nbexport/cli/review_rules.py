"""``nbexport review rules``."""

from __future__ import annotations

import click

from nbexport.review.report import rules as about_rules
from nbexport.review.rules import RULES


@click.command("rules")
@click.argument("rule", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    show_default=True,
    help="markdown is the page of documentation.",
)
def rules_command(*, rule: str | None, form: str) -> None:
    """List the rules of the reviewer, or explain one RULE with examples.

    \b
      nbexport review rules
      nbexport review rules leak-through-base
      nbexport review rules --format markdown

    A source of that name is written ./rules where a schema is expected.
    """  # noqa: D301 - click wants the \b itself
    if rule is not None and rule not in RULES:
        import difflib  # noqa: PLC0415 - only for a mistake

        alike = difflib.get_close_matches(rule, RULES, 3)
        hint = f" (did you mean {', '.join(alike)}?)" if alike else ""
        raise click.UsageError(f"no rule '{rule}'{hint}.")
    chosen = list(RULES.values()) if rule is None else [RULES[rule]]
    if form == "json":
        click.echo(about_rules.as_json(chosen), nl=False)
    elif form == "markdown":
        click.echo(about_rules.page(chosen), nl=False)
    elif rule is None:
        click.echo(about_rules.listed(chosen), nl=False)
    else:
        click.echo(about_rules.explained(chosen[0]), nl=False)
