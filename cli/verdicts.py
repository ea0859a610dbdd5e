"""Commands that look and judge: `score`, `judge`, `doctor`. None of them starts a Prefect server."""


import typer

from cli.output import Json, say, say_json, table


def register(app: typer.Typer) -> None:
    """Adds this module's commands to `app`."""
    app.command()(score)
    app.command()(judge)
    app.command()(doctor)


def doctor(json_: Json = False) -> None:
    """Print the effective settings (secrets masked), then check each part and say what to do where one isn't ready."""
    from schemas.settings import load_settings
    from tasks.doctor import check_all

    settings = load_settings()
    say(_settings_table(settings.model_dump(mode="json")))
    checks = []
    for check in check_all(settings):
        checks.append(check)
        mark = "[green]ready[/]" if check.ready else "[red]NOT READY[/]"
        say(f"{mark}  [bold]{check.part:<10}[/] {_escape(check.finding)} [dim]({check.seconds:.1f} s)[/]")
    if json_:
        say_json({check.part: {"ready": check.ready, "finding": check.finding} for check in checks})
    if not all(check.ready for check in checks):
        raise typer.Exit(1)


def _settings_table(dumped: dict) -> object:
    rows = []
    for name, value in dumped.items():
        if isinstance(value, dict):
            rows += [(f"{name}.{key}", repr(inner)) for key, inner in value.items()]
        else:
            rows.append((name, repr(value)))
    return table("settings", ["name", "value"], rows)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
